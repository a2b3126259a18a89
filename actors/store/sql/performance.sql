-- name: put_feedback
INSERT INTO feedback (call_id, usage_id, user, rating, comment, at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (usage_id, user) DO UPDATE SET rating = excluded.rating, comment = excluded.comment, at = excluded.at

-- name: call_of_attempt
SELECT call_id FROM usage WHERE id = ?

-- name: rated_attempt
SELECT usage.id, usage.model, held.id IS NOT NULL AND usage.id IS NOT :named AND usage.model IS NOT json_extract(held.verdict, '$.winner')
FROM usage LEFT JOIN tournaments AS held ON held.id = usage.call_id
WHERE usage.id > :call_id AND usage.id < :until AND call_id = :call_id
    AND (:user IS NULL OR usage.user = :user OR (usage.user >= :user || '/' AND usage.user < :user || '0'))
ORDER BY held.id IS NOT NULL AND usage.id IS :named DESC, usage.model IS json_extract(held.verdict, '$.winner') DESC,
    usage.status = 'ok' DESC, usage.id DESC LIMIT 1

-- name: models
WITH seen AS MATERIALIZED (
    SELECT model, task_type, status, cost, latency_us, first_token_us FROM usage
    WHERE created_at >= :since AND created_at < :until
        AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
        AND (:model IS NULL OR model = :model)
        AND (:task IS NULL OR task_type = :task)),
counted AS (
    SELECT model, task_type, count(*) AS calls, sum(status = 'ok') AS answers,
        count(first_token_us) FILTER (WHERE status = 'ok') AS firsts,
        sum(status IN (SELECT value FROM json_each(:faults))) AS errors,
        CAST(round(avg(cost) FILTER (WHERE status = 'ok')) AS INTEGER) AS cost
    FROM seen GROUP BY model, task_type),
placed AS ( -- where the latencies of each begin, when all are in one row, sorted
    SELECT *, sum(answers) OVER before AS latencies_before, sum(firsts) OVER before AS firsts_before
    FROM counted
    WINDOW before AS (ORDER BY model, task_type ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
wanted AS MATERIALIZED ( -- nearest rank: the value at n × p, rounded up
    SELECT model, task_type, calls, answers, errors, cost,
        CASE WHEN answers THEN coalesce(latencies_before, 0) + (answers * 50 + 99) / 100 END AS p50,
        CASE WHEN answers THEN coalesce(latencies_before, 0) + (answers * 95 + 99) / 100 END AS p95,
        CASE WHEN firsts THEN coalesce(firsts_before, 0) + (firsts * 50 + 99) / 100 END AS first_p50,
        CASE WHEN firsts THEN coalesce(firsts_before, 0) + (firsts * 95 + 99) / 100 END AS first_p95
    FROM placed),
latencies AS MATERIALIZED (
    SELECT us, rank FROM (
        SELECT latency_us AS us, row_number() OVER (ORDER BY model, task_type, latency_us) AS rank FROM seen WHERE status = 'ok')
    WHERE rank IN (SELECT p50 FROM wanted UNION SELECT p95 FROM wanted)),
firsts AS MATERIALIZED (
    SELECT us, rank FROM (
        SELECT first_token_us AS us, row_number() OVER (ORDER BY model, task_type, first_token_us) AS rank
        FROM seen WHERE status = 'ok' AND first_token_us IS NOT NULL)
    WHERE rank IN (SELECT first_p50 FROM wanted UNION SELECT first_p95 FROM wanted)),
said AS MATERIALIZED (
    SELECT model, task_type, avg(rating) AS mean, count(*) AS n
    FROM feedback JOIN usage ON usage.id = feedback.usage_id
    WHERE created_at >= :since AND created_at < :until
        AND (:user IS NULL OR usage.user = :user OR (usage.user >= :user || '/' AND usage.user < :user || '0'))
    GROUP BY model, task_type)
SELECT wanted.model, wanted.task_type, calls, answers, errors, half.us, most.us, first_half.us, first_most.us, cost,
    said.mean, coalesce(said.n, 0), CAST(agreed AS REAL) / counted, coalesce(counted, 0)
FROM wanted
    LEFT JOIN latencies AS half ON half.rank = p50
    LEFT JOIN latencies AS most ON most.rank = p95
    LEFT JOIN firsts AS first_half ON first_half.rank = first_p50
    LEFT JOIN firsts AS first_most ON first_most.rank = first_p95
    LEFT JOIN said ON said.model = wanted.model AND said.task_type IS wanted.task_type
    LEFT JOIN reliability ON reliability.model = wanted.model AND reliability.task_type = coalesce(wanted.task_type, '')
        AND counted > 0
ORDER BY calls DESC, wanted.model, wanted.task_type LIMIT 1000

-- name: arms
WITH calls AS MATERIALIZED (
    SELECT arm, call_id, min(user) AS user, max(status = 'ok') AS answered,
        min(status IN (SELECT value FROM json_each(:faults))) AS failed,
        CASE WHEN count(cost) = count(*) THEN sum(cost) END AS cost,
        CASE WHEN max(status = 'ok') THEN max(created_at + latency_us) - min(created_at) END AS latency
    FROM usage
    WHERE arm IS NOT NULL AND created_at >= :since AND created_at < :until
        AND (:user IS NULL OR user = :user OR (user >= :user || '/' AND user < :user || '0'))
        AND (:task IS NULL OR task_type = :task)
    GROUP BY arm, call_id)
SELECT arm, count(*), count(DISTINCT user), sum(answered), sum(failed),
    avg(cost), sum((cost - cost_mean) * (cost - cost_mean)), count(cost),
    avg(latency), sum((latency - latency_mean) * (latency - latency_mean)), count(latency),
    avg(rating), sum((rating - rating_mean) * (rating - rating_mean)), count(rating)
FROM (
    SELECT calls.*, rating, avg(cost) OVER of_arm AS cost_mean, avg(latency) OVER of_arm AS latency_mean,
        avg(rating) OVER of_arm AS rating_mean
    FROM calls LEFT JOIN (SELECT call_id, avg(rating) AS rating FROM feedback GROUP BY call_id) USING (call_id)
    WINDOW of_arm AS (PARTITION BY arm))
GROUP BY arm ORDER BY arm

-- name: stats
SELECT model, sum(calls), sum(prompt), sum(cached), sum(response), sum(reasoning), sum(cost), sum(unpriced),
    max(last_at), sum(answers), sum(errors), sum(latency)
FROM (
    SELECT model, count(*) AS calls, sum(prompt_tokens) AS prompt, sum(cached_tokens) AS cached, sum(response_tokens) AS response,
        sum(reasoning_tokens) AS reasoning, coalesce(sum(cost), 0) AS cost, sum(cost IS NULL) AS unpriced,
        max(created_at) AS last_at, sum(status = 'ok') AS answers,
        sum(status IN (SELECT value FROM json_each(:faults))) AS errors,
        coalesce(sum(latency_us) FILTER (WHERE status = 'ok'), 0) AS latency
    FROM usage WHERE user = :user GROUP BY model
    UNION ALL
    SELECT model, sum(calls), sum(prompt_tokens), sum(cached_tokens), sum(response_tokens), sum(reasoning_tokens), sum(cost),
        sum(unpriced), NULL, 0, 0, 0
    FROM usage_daily WHERE user = :user GROUP BY model)
GROUP BY model
