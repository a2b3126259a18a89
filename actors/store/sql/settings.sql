-- name: all_settings
SELECT owner, key, value FROM settings

-- name: set_setting
INSERT INTO settings (owner, key, value) VALUES (?, ?, ?)
ON CONFLICT (owner, key) DO UPDATE SET value = excluded.value

-- name: unset_setting
DELETE FROM settings WHERE owner = ? AND key = ?
