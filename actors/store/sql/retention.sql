-- name: last_of_window
SELECT max(id) FROM (SELECT id FROM usage WHERE id > ? ORDER BY id LIMIT ?)

-- name: closed
SELECT id, created_at FROM usage
WHERE id > :after AND id <= :last AND created_at < :before
    AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.id = usage.id)
    AND (SELECT max(entry) > 0 AND sum(held) = 0 AND sum(spent) = coalesce(usage.cost, 0)
        FROM journal WHERE journal.usage_id = usage.id)
ORDER BY id

-- name: add_daily
INSERT INTO usage_daily (day, user, app, provider, model, calls, prompt_tokens, cached_tokens, response_tokens, reasoning_tokens,
    cost, unpriced, overruns)
SELECT ?, user, app, provider, model, count(*), sum(prompt_tokens), sum(cached_tokens), sum(response_tokens), sum(reasoning_tokens),
    coalesce(sum(cost), 0), sum(cost IS NULL), sum(instr(marks, 'overrun') > 0)
FROM usage WHERE id IN (SELECT value FROM json_each(?))
GROUP BY user, app, provider, model
ON CONFLICT (day, user, app, provider, model) DO UPDATE SET calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens, cached_tokens = cached_tokens + excluded.cached_tokens,
    response_tokens = response_tokens + excluded.response_tokens, reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost = cost + excluded.cost, unpriced = unpriced + excluded.unpriced, overruns = overruns + excluded.overruns

-- name: add_carried
INSERT INTO carried (set_id, attempts, entries, spent)
SELECT set_id, sum(entry = 1), count(*), sum(spent)
FROM journal WHERE usage_id IN (SELECT value FROM json_each(?))
GROUP BY set_id
ON CONFLICT (set_id) DO UPDATE SET attempts = attempts + excluded.attempts, entries = entries + excluded.entries,
    spent = spent + excluded.spent

-- name: carry_before
UPDATE carried_before SET usage_id = max(usage_id, ?)

-- name: drop_feedback
DELETE FROM feedback WHERE call_id IN (SELECT call_id FROM usage WHERE id IN (SELECT value FROM json_each(?1)))
    AND usage_id IN (SELECT value FROM json_each(?1))

-- name: old_tournaments
SELECT id FROM tournaments WHERE created_at < ? AND state <> 'running' LIMIT ?

-- name: drop_tournaments
DELETE FROM tournaments WHERE id IN (SELECT value FROM json_each(?))

-- name: drop_usage
DELETE FROM usage WHERE id IN (SELECT value FROM json_each(?))

-- name: drop_entries
DELETE FROM journal WHERE usage_id IN (SELECT value FROM json_each(?))
