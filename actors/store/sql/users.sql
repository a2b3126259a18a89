-- name: preferences
SELECT NULL, provider, model, is_default, defaults, overrides FROM user_models WHERE user = ?1
UNION ALL
SELECT conversation, NULL, model, 0, NULL, NULL FROM conversations WHERE user = ?1

-- name: user_models
SELECT provider, model, is_default, use_count, defaults, overrides, metadata, created_at, updated_at
FROM user_models WHERE user = ? ORDER BY provider

-- name: conversation
SELECT model FROM conversations WHERE user = ? AND conversation = ?

-- name: users
SELECT name, created_at, (SELECT provider || ':' || model FROM user_models WHERE user = name AND is_default = 1),
    (SELECT count(*) FROM user_models WHERE user = name), (SELECT count(*) FROM conversations WHERE user = name)
FROM users WHERE name > ?2 ORDER BY name LIMIT ?1

-- name: add_user
INSERT INTO users (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: count_uses
UPDATE user_models SET use_count = use_count + ? WHERE user = ? AND provider = ? AND model = ?

-- name: no_default
UPDATE user_models SET is_default = 0 WHERE user = ? AND is_default = 1

-- name: put_model
INSERT INTO user_models (user, provider, model, is_default, use_count, defaults, overrides, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user, provider) DO UPDATE SET model = excluded.model, is_default = excluded.is_default,
    use_count = CASE WHEN model = excluded.model THEN use_count ELSE 0 END, defaults = excluded.defaults,
    overrides = excluded.overrides, metadata = excluded.metadata, updated_at = excluded.updated_at

-- name: remove_model
DELETE FROM user_models WHERE user = ? AND provider = ?

-- name: put_conversation
INSERT INTO conversations (user, conversation, model, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (user, conversation) DO UPDATE SET model = excluded.model, updated_at = excluded.updated_at

-- name: remove_conversation
DELETE FROM conversations WHERE user = ? AND conversation = ?

-- name: forget_conversations
DELETE FROM conversations WHERE user = ?1 AND conversation IN (
    SELECT conversation FROM conversations WHERE user = ?1 ORDER BY updated_at DESC, conversation LIMIT -1 OFFSET ?2)

-- name: remove_user
DELETE FROM users WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM user_models WHERE user = ?1)
    AND NOT EXISTS (SELECT 1 FROM conversations WHERE user = ?1)
