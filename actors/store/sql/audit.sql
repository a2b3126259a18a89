-- name: add_audit
INSERT INTO audit (at, actor_uid, user, app, action, subject, before, after, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: settle_override
UPDATE audit SET cost = ?1, after = CAST(CAST(before AS INTEGER) + ?1 AS TEXT)
WHERE subject = ?2 AND action = 'override.confirmed' AND cost IS NULL

-- name: audit
SELECT id, at, actor_uid, user, app, action, subject, before, after, why, cost
FROM audit
WHERE (:before IS NULL OR id < :before)
    AND (:action IS NULL OR action = :action)
    AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
ORDER BY id DESC LIMIT :last
