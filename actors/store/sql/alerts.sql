-- name: undelivered_alerts
SELECT id, scope, period, level, at, spent, limit_nano, label, suggestion FROM alerts
WHERE delivered IS NULL AND at >= ? ORDER BY id LIMIT 100

-- name: alert_delivered
UPDATE alerts SET delivered = ? WHERE id = ?
