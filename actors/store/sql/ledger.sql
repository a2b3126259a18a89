-- name: add_account
INSERT INTO accounts (scope, period, label) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- name: add_to_set
INSERT INTO account_sets (set_id, account_id)
SELECT row.column1, accounts.id
FROM (VALUES (?, ?, ?, ?)) AS row
    JOIN accounts ON accounts.scope = row.column2 AND accounts.period = row.column3 AND accounts.label = row.column4

-- name: add_hold
INSERT INTO holds (id, call_id, user, app, conversation, task_type, provider, model, endpoint, reason, created_at, arm, amount, set_id, marks, lease_until)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_entry
INSERT INTO journal (usage_id, entry, at, held, spent, set_id) VALUES (?, ?, ?, ?, ?, ?)

-- name: add_usage
INSERT INTO usage (id, call_id, created_at, user, app, conversation, task_type, provider, model, endpoint, reason,
    prompt_tokens, cached_tokens, cache_write_tokens, response_tokens, reasoning_tokens, token_source,
    cost, cost_source, price_version, latency_us, first_token_us, status, held, marks, audio_prompt_tokens, audio_response_tokens, arm)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: correct_usage
UPDATE usage SET cost = ?1, cost_source = 'corrected' WHERE id = ?2

-- name: close_hold
DELETE FROM holds WHERE id IN (VALUES (?))

-- name: mark_unknown
UPDATE holds SET state = 'unknown' WHERE id IN (VALUES (?))

-- name: add_alert
INSERT INTO alerts (scope, period, label, level, limit_nano, spent, at, suggestion) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING

-- name: add_override
INSERT INTO overrides (id, user, amount, granted_at, until, granted_by, why) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: revoke_override
UPDATE overrides SET revoked_at = ?1 WHERE id = ?2

-- name: add_to_balances
UPDATE accounts SET held = accounts.held + moved.held, spent = accounts.spent + moved.spent
FROM (
    SELECT account_sets.account_id, sum(row.column2) AS held, sum(row.column3) AS spent
    FROM (VALUES (?, ?, ?)) AS row JOIN account_sets ON account_sets.set_id = row.column1
    GROUP BY account_sets.account_id
) AS moved
WHERE accounts.id = moved.account_id

-- name: last_set_id
SELECT coalesce(max(set_id), 0) FROM account_sets

-- name: recent_sets
SELECT account_sets.set_id, accounts.scope, accounts.period, accounts.label
FROM account_sets JOIN accounts ON accounts.id = account_sets.account_id
WHERE account_sets.set_id IN (
    SELECT of_days.set_id FROM accounts AS days JOIN account_sets AS of_days ON of_days.account_id = days.id
    WHERE days.period = 'day' AND days.label >= (
        SELECT min(label) FROM (SELECT DISTINCT label FROM accounts WHERE period = 'day' ORDER BY label DESC LIMIT 2)))
    AND account_sets.set_id > (SELECT max(set_id) FROM account_sets) - ?

-- name: sets_of_open_holds
SELECT account_sets.set_id, accounts.scope, accounts.period, accounts.label
FROM account_sets JOIN accounts ON accounts.id = account_sets.account_id
WHERE account_sets.set_id IN (SELECT set_id FROM holds WHERE state = 'held')

-- name: balances
SELECT scope, period, label, spent, held FROM accounts
WHERE (spent <> 0 OR held <> 0) AND (period = 'month' AND label >= ? OR period = 'day' AND label >= ?)
    OR (period = 'override' AND label IN (SELECT id FROM overrides WHERE revoked_at IS NULL))
    OR id IN (SELECT account_id FROM account_sets WHERE set_id IN (SELECT set_id FROM holds WHERE state = 'held'))

-- name: open_holds
SELECT id, call_id, user, app, conversation, task_type, provider, model, endpoint, reason, created_at, arm, amount, set_id, marks, lease_until
FROM holds WHERE state = 'held' ORDER BY id

-- name: listed_holds
SELECT id, user, model, amount, state, created_at, marks FROM holds ORDER BY id

-- name: count_unknown
SELECT count(*) FROM holds WHERE state = 'unknown'

-- name: unknown_hold
SELECT holds.state, usage.cost, (SELECT max(entry) FROM journal WHERE usage_id = holds.id)
FROM holds LEFT JOIN usage ON usage.id = holds.id WHERE holds.id = ?

-- name: accounts_of_hold
SELECT accounts.scope, accounts.period, accounts.label
FROM holds JOIN account_sets USING (set_id) JOIN accounts ON accounts.id = account_sets.account_id WHERE holds.id = ?

-- name: alerts_since
SELECT scope, period, label, level, limit_nano, spent, at, suggestion FROM alerts
WHERE (period = 'month' AND label >= ?) OR (period = 'day' AND label >= ?) ORDER BY id

-- name: newest_alerts
SELECT scope, period, label, level, limit_nano, spent, at, suggestion FROM alerts
WHERE ?1 IS NULL OR scope IN ('daemon', 'user:' || ?1) OR (scope >= 'user:' || ?1 || '/' AND scope < 'user:' || ?1 || '0')
ORDER BY id DESC LIMIT ?2

-- name: standing_overrides
SELECT id, user, amount, granted_at, until, granted_by, why FROM overrides WHERE revoked_at IS NULL AND until > ?

-- name: last_id
SELECT max(id) FROM (
    SELECT max(usage_id) AS id FROM journal UNION ALL SELECT max(call_id) FROM usage UNION ALL SELECT max(call_id) FROM holds
    UNION ALL SELECT nullif(usage_id, '') FROM carried_before UNION ALL SELECT max(id) FROM tournaments)

-- name: usage
SELECT id, call_id, created_at, user, app, conversation, task_type, model, endpoint, reason,
    prompt_tokens, cached_tokens, response_tokens, reasoning_tokens, token_source,
    cost, cost_source, price_version, latency_us, first_token_us, status, held, marks, arm
FROM usage
WHERE (:before IS NULL OR id < :before)
    AND (:since IS NULL OR created_at >= :since)
    AND (:until IS NULL OR created_at < :until)
    AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
    AND (:app IS NULL OR app = :app)
    AND (:model IS NULL OR model = :model)
    AND (:task IS NULL OR task_type = :task)
    AND (:conversation IS NULL OR conversation = :conversation)
ORDER BY id DESC LIMIT :last

-- name: groups
SELECT key, sum(calls), sum(prompt), sum(response), sum(cost), sum(unpriced), sum(overruns) FROM (
    SELECT CASE :by
            WHEN 'user' THEN user WHEN 'app' THEN app WHEN 'provider' THEN provider WHEN 'model' THEN model
            ELSE local_day(created_at) END AS key,
        count(*) AS calls, sum(prompt_tokens) AS prompt, sum(response_tokens) AS response, coalesce(sum(cost), 0) AS cost,
        sum(cost IS NULL) AS unpriced, sum(marks LIKE '%overrun%') AS overruns
    FROM usage
    WHERE created_at >= :since AND created_at < :until
        AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
    GROUP BY key
    UNION ALL
    SELECT CASE :by
            WHEN 'user' THEN user WHEN 'app' THEN app WHEN 'provider' THEN provider WHEN 'model' THEN model
            ELSE day END AS key,
        sum(calls), sum(prompt_tokens), sum(response_tokens), sum(cost), sum(unpriced), sum(overruns)
    FROM usage_daily -- a day counts if its midnight is within; the bounds keep to years that every time zone can name
    WHERE day > local_day(min(max(:since, 1), 253000000000000000) - 1) AND day <= local_day(min(max(:until, 1), 253000000000000000) - 1)
        AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
    GROUP BY key)
GROUP BY key ORDER BY CASE WHEN :by = 'day' THEN 0 ELSE sum(cost) END DESC, key

-- name: paid_calls
SELECT model, count(*), sum(prompt_tokens), sum(response_tokens), max(prompt_tokens), sum(cost)
FROM usage
WHERE id >= :first AND created_at >= :since AND task_type = :task AND status = 'ok' AND cost > 0
    AND (user = :user OR (user >= :user || '/' AND user < :user || '0'))
GROUP BY model ORDER BY sum(cost) DESC, model

-- name: recomputed
WITH moved AS MATERIALIZED (
    SELECT set_id, sum(spent) AS spent, sum(held) AS held FROM journal GROUP BY set_id
    UNION ALL SELECT set_id, spent, 0 FROM carried)
SELECT accounts.id, accounts.scope, accounts.period, accounts.label, accounts.spent, accounts.held,
    coalesce(sum(moved.spent), 0), coalesce(sum(moved.held), 0)
FROM accounts LEFT JOIN account_sets ON account_sets.account_id = accounts.id
    LEFT JOIN moved ON moved.set_id = account_sets.set_id
GROUP BY accounts.id

-- name: totals
SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM accounts), (SELECT count(*) FROM usage),
    (SELECT count(*) FROM holds WHERE state = 'held'), (SELECT coalesce(sum(cost), 0) FROM usage),
    (SELECT coalesce(sum(spent), 0) FROM journal), (SELECT coalesce(sum(held), 0) FROM journal),
    (SELECT coalesce(sum(amount), 0) FROM holds WHERE state = 'held'),
    (SELECT coalesce(sum(calls), 0) FROM usage_daily), (SELECT coalesce(sum(cost), 0) FROM usage_daily),
    (SELECT coalesce(sum(attempts), 0) FROM carried), (SELECT coalesce(sum(entries), 0) FROM carried),
    (SELECT coalesce(sum(spent), 0) FROM carried)

-- name: unbalanced_attempts
SELECT journal.usage_id, sum(journal.held), sum(journal.spent), usage.cost
FROM journal LEFT JOIN usage ON usage.id = journal.usage_id
GROUP BY journal.usage_id
HAVING (usage.id IS NULL AND (count(*) > 1 OR NOT EXISTS (SELECT 1 FROM holds WHERE holds.id = journal.usage_id)))
    OR (usage.id IS NOT NULL AND (sum(journal.held) <> 0 OR sum(journal.spent) <> coalesce(usage.cost, 0)))
UNION ALL
SELECT id, 0, 0, cost FROM usage WHERE NOT EXISTS (SELECT 1 FROM journal WHERE journal.usage_id = usage.id)
LIMIT 20
