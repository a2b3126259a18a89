-- Budgets that users steer: how each hold passed its limits, alerts, overrides, keys of idempotent calls, and daily sums of old rows.

-- A third kind of account: what a user spends through one override; its label is the override's id.
CREATE TABLE accounts_2 (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('month', 'day', 'override')),
    label TEXT NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    UNIQUE (period, label, scope)
) STRICT;

INSERT INTO accounts_2 SELECT id, scope, period, label, spent, held FROM accounts;

DROP TABLE accounts;

ALTER TABLE accounts_2 RENAME TO accounts;

-- marks: how it passed a limit (soft, override, unenforced, limit_lowered) or changed (clamped), apart by commas.
-- lease_until: when it is closed although nobody settled it.
ALTER TABLE holds ADD COLUMN marks TEXT NOT NULL DEFAULT '';

ALTER TABLE holds ADD COLUMN lease_until INTEGER NOT NULL DEFAULT 0;

-- held: the hold of the attempt; with a cost above it the marks say `overrun`.
ALTER TABLE usage ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage ADD COLUMN marks TEXT NOT NULL DEFAULT '';

UPDATE usage SET held = coalesce((SELECT held FROM journal WHERE usage_id = usage.id AND entry = 0), 0);

UPDATE usage SET marks = 'overrun' WHERE cost > held;

ALTER TABLE usage ADD COLUMN audio_prompt_tokens INTEGER NOT NULL DEFAULT 0;

ALTER TABLE usage ADD COLUMN audio_response_tokens INTEGER NOT NULL DEFAULT 0;

-- The outcome of a confirmed override, filled in by its settlement.
ALTER TABLE audit ADD COLUMN cost INTEGER;

CREATE INDEX overrides_in_audit ON audit (subject) WHERE action = 'override.confirmed';

-- The id is the order in which spend reached the levels.
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    period TEXT NOT NULL,
    label TEXT NOT NULL,
    level INTEGER NOT NULL,
    limit_nano INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    at INTEGER NOT NULL,
    suggestion TEXT,
    UNIQUE (period, label, scope, level, limit_nano)
) STRICT;

-- How far each way out of the daemon (command, webhook) has come: the last alert that it took, or that it was given up for.
CREATE TABLE alerts_out (
    way TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE overrides (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    amount INTEGER NOT NULL,
    granted_at INTEGER NOT NULL,
    until INTEGER NOT NULL,
    granted_by TEXT NOT NULL,
    why TEXT NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

-- body is a hash of the request; outcome is JSON, NULL while the call runs or when a crash hid what came of it.
CREATE TABLE idempotency (
    uid INTEGER NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    call_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    outcome BLOB,
    PRIMARY KEY (uid, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (at);

-- Attempts older than `usage.retention_days`: sums by day, and what the journal held of them by set of accounts.
CREATE TABLE usage_daily (
    day TEXT NOT NULL,
    user TEXT NOT NULL,
    app TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    response_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    overruns INTEGER NOT NULL,
    PRIMARY KEY (day, user, app, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE carried (
    set_id INTEGER PRIMARY KEY,
    attempts INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    spent INTEGER NOT NULL
) STRICT;

-- The one row is above each attempt that was carried into sums, not a claim that all below are. Only below it may the journal be
-- cut, and only of attempts that are nowhere else any more.
CREATE TABLE carried_before (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    usage_id TEXT NOT NULL
) STRICT;

INSERT INTO carried_before (one, usage_id) VALUES (1, '');

DROP TRIGGER journal_is_never_cut;

CREATE TRIGGER journal_is_never_cut BEFORE DELETE ON journal
WHEN (OLD.usage_id < (SELECT usage_id FROM carried_before)) IS NOT TRUE
    OR EXISTS (SELECT 1 FROM usage WHERE id = OLD.usage_id)
    OR EXISTS (SELECT 1 FROM holds WHERE id = OLD.usage_id)
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;
