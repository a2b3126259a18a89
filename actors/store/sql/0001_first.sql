-- Money: accounts cache the sums of an append-only journal. Amounts are nano-dollars, instants are microseconds since 1970
-- (UTC); a period is named by its calendar label, `2026-11` or `2026-11-21`, so that a change of the time zone renames none.

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('month', 'day')),
    label TEXT NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    UNIQUE (period, label, scope)
) STRICT;

-- The accounts that one attempt counts in, named once: attempts of the same user, app, provider and periods share a set.
CREATE TABLE account_sets (
    set_id INTEGER NOT NULL,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    PRIMARY KEY (set_id, account_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX sets_by_account ON account_sets (account_id);

-- Holds that are open ('held'), or posted with an outcome that nobody knows ('unknown').
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    call_id TEXT NOT NULL,
    user TEXT NOT NULL,
    app TEXT NOT NULL,
    conversation TEXT,
    task_type TEXT,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    set_id INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'unknown'))
) STRICT, WITHOUT ROWID;

-- entry 0 takes the hold, entry 1 is the one outcome, later ones are corrections: the key lets no attempt end twice.
CREATE TABLE journal (
    usage_id TEXT NOT NULL,
    entry INTEGER NOT NULL CHECK (entry >= 0),
    at INTEGER NOT NULL,
    held INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    set_id INTEGER NOT NULL,
    PRIMARY KEY (usage_id, entry)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER journal_is_never_changed BEFORE UPDATE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;

CREATE TRIGGER journal_is_never_cut BEFORE DELETE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;

-- One row an attempt, written in the transaction that closes its hold.
CREATE TABLE usage (
    id TEXT PRIMARY KEY,
    call_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    user TEXT NOT NULL,
    app TEXT NOT NULL,
    conversation TEXT,
    task_type TEXT,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    response_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    token_source TEXT NOT NULL,
    cost INTEGER,
    cost_source TEXT NOT NULL,
    price_version TEXT,
    latency_us INTEGER NOT NULL,
    first_token_us INTEGER,
    status TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- owner is a user, '*' (everybody's default) or 'daemon'; value is JSON.
CREATE TABLE settings (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor_uid INTEGER NOT NULL,
    user TEXT NOT NULL,
    app TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT,
    after TEXT,
    why TEXT
) STRICT;
