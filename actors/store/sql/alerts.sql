-- name: undelivered_alerts
SELECT id, scope, period, level, at, spent, limit_nano, label, suggestion FROM alerts
WHERE id > coalesce((SELECT last FROM alerts_out WHERE way = ?), 0) AND at >= ? ORDER BY id LIMIT 100

-- name: alert_delivered
INSERT INTO alerts_out (way, last) VALUES (?, ?) ON CONFLICT DO UPDATE SET last = max(last, excluded.last)
