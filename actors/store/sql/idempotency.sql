-- name: sweep_key
DELETE FROM idempotency WHERE uid = ? AND key = ? AND at <= ?

-- name: forget_key
DELETE FROM idempotency WHERE uid = ? AND key = ?

-- name: take_key
INSERT INTO idempotency (uid, key, body, call_id, at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (uid, key) DO UPDATE SET body = excluded.body, call_id = excluded.call_id, at = excluded.at, outcome = NULL

-- name: keep_outcome
UPDATE idempotency SET outcome = ?, at = max(at, ?) WHERE uid = ? AND key = ?

-- name: key
SELECT body, call_id, at, outcome FROM idempotency WHERE uid = ? AND key = ?

-- name: old_keys
SELECT uid, key FROM idempotency WHERE at <= ? ORDER BY at LIMIT ?

-- name: attempts_left
SELECT id, status FROM usage WHERE id > :call_id AND call_id = :call_id
UNION ALL
SELECT id, 'held' FROM holds WHERE call_id = :call_id AND state = 'held'
ORDER BY id
