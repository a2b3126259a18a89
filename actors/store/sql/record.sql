-- name: add_tournament
INSERT INTO tournaments (id, created_at, user, app, task_type, mode, prompt, spec, terms, members) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: put_ballot
INSERT INTO ballots (tournament_id, slot, model, family, status, answer, text, cluster, why, cost, latency_us, usage_id, round,
    arrived)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tournament_id, slot) DO UPDATE SET model = excluded.model, family = excluded.family, status = excluded.status,
    answer = excluded.answer, text = excluded.text, cluster = excluded.cluster, why = excluded.why, cost = excluded.cost,
    latency_us = excluded.latency_us, usage_id = excluded.usage_id, round = excluded.round,
    arrived = excluded.arrived

-- name: count_ballots
UPDATE ballots SET agreed = slot IN (SELECT value FROM json_each(?2)) WHERE tournament_id = ?1 AND status = 'ok'
    AND (SELECT state = 'running' FROM tournaments WHERE id = ?1)

-- name: close
UPDATE tournaments SET state = 'done', status = ?2, answer = ?3, verdict = ?4, cost = ?5, needs_review = ?6
WHERE id = ?1 AND state = 'running'

-- name: leave_unfinished
UPDATE tournaments SET state = 'unfinished', why = ?2, cost = (SELECT sum(cost) FROM ballots WHERE tournament_id = ?1)
WHERE id = ?1 AND state = 'running'

-- name: review
UPDATE tournaments SET reviewed_answer = ?2, reviewed_at = ?3, reviewed_by = ?4, needs_review = 0 WHERE id = ?1

-- name: count_reviewed
UPDATE ballots SET agreed = slot IN (SELECT value FROM json_each(?2)) WHERE tournament_id = ?1 AND status = 'ok'

-- name: running
SELECT id FROM tournaments WHERE state = 'running'

-- name: tournaments
SELECT id, created_at, user, app, task_type, mode, state, status, substr(answer, 1, 300), needs_review, members, substr(prompt, 1, 300),
    cost, substr(reviewed_answer, 1, 300), reviewed_at, reviewed_by, why
FROM tournaments
WHERE (:before IS NULL OR id < :before)
    AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
    AND (:needs_review IS NULL OR needs_review = :needs_review)
    AND (:state IS NULL OR state = :state)
    AND (:task IS NULL OR task_type = :task)
ORDER BY id DESC LIMIT :last

-- name: reviews
SELECT id, created_at, user, app, task_type, mode, state, status, substr(answer, 1, 300), needs_review, members, substr(prompt, 1, 300),
    cost, substr(reviewed_answer, 1, 300), reviewed_at, reviewed_by, why
FROM tournaments
WHERE needs_review = 1
    AND (:before IS NULL OR id < :before)
    AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
ORDER BY id DESC LIMIT :last

-- name: tournament
SELECT id, created_at, user, app, task_type, mode, state, status, answer, needs_review, members, prompt,
    cost, reviewed_answer, reviewed_at, reviewed_by, why, spec, terms, verdict
FROM tournaments
WHERE id = :id AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))

-- name: ballots
SELECT slot, model, family, status, answer, text, cluster, why, cost, latency_us, usage_id, round, arrived
FROM ballots WHERE tournament_id = ? ORDER BY slot

-- name: reliability
SELECT model, sum(agreed), sum(counted) FROM reliability WHERE ?1 IS NULL OR task_type = ?1 GROUP BY model HAVING sum(counted) > 0
