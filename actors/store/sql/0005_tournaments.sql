-- The record of tournaments: what was asked of whom, every ballot, the verdict, what a person said of it, and how reliable that makes models.

-- prompt: the last message's text, cut. spec, terms, members, verdict: JSON; verdict without its ballots. needs_review: still waits for one.
-- why: what left it unfinished. With rowids, for its texts are long: rows of a table without them should fit a page many times.
CREATE TABLE tournaments (
    id TEXT PRIMARY KEY NOT NULL,
    created_at INTEGER NOT NULL,
    user TEXT NOT NULL,
    app TEXT NOT NULL,
    task_type TEXT,
    mode TEXT NOT NULL,
    prompt TEXT NOT NULL,
    spec TEXT CHECK (spec IS NULL OR json_valid(spec)),
    terms TEXT NOT NULL CHECK (json_valid(terms)),
    members TEXT NOT NULL CHECK (json_valid(members)),
    state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'unfinished')),
    status TEXT,
    answer TEXT,
    verdict TEXT CHECK (verdict IS NULL OR json_valid(verdict)),
    cost INTEGER,
    needs_review INTEGER NOT NULL DEFAULT 0 CHECK (needs_review IN (0, 1)),
    reviewed_answer TEXT,
    reviewed_at INTEGER,
    reviewed_by TEXT,
    why TEXT
) STRICT;

CREATE INDEX tournaments_by_age ON tournaments (created_at);

CREATE INDEX tournaments_running ON tournaments (id) WHERE state = 'running';

CREATE INDEX tournaments_to_review ON tournaments (id) WHERE needs_review = 1;

-- agreed: whether it gave the answer that was decided or reviewed; NULL where nothing is, or it is no answer.
-- arrived: the place in the order in which they came, from 1; 0 for what did not come.
CREATE TABLE ballots (
    tournament_id TEXT NOT NULL REFERENCES tournaments (id) ON DELETE CASCADE,
    slot INTEGER NOT NULL,
    model TEXT NOT NULL,
    family TEXT,
    status TEXT NOT NULL,
    answer TEXT,
    text TEXT NOT NULL,
    cluster INTEGER,
    why TEXT,
    cost INTEGER,
    latency_us INTEGER,
    usage_id TEXT,
    round INTEGER NOT NULL,
    arrived INTEGER NOT NULL,
    agreed INTEGER CHECK (agreed IN (0, 1)),
    PRIMARY KEY (tournament_id, slot)
) STRICT;

-- task_type: '' for tournaments that named none. Sums of `ballots.agreed`, which stay when old ballots go.
CREATE TABLE reliability (
    model TEXT NOT NULL,
    task_type TEXT NOT NULL,
    agreed INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (model, task_type)
) STRICT, WITHOUT ROWID;

-- The one place that moves the sums, by what changed: saying the same again moves nothing, saying another answer corrects.
CREATE TRIGGER ballots_count AFTER UPDATE OF agreed ON ballots WHEN NEW.agreed IS NOT OLD.agreed
BEGIN
    INSERT INTO reliability (model, task_type, agreed, counted)
    VALUES (NEW.model, (SELECT coalesce(task_type, '') FROM tournaments WHERE id = NEW.tournament_id),
        coalesce(NEW.agreed, 0) - coalesce(OLD.agreed, 0), (NEW.agreed IS NOT NULL) - (OLD.agreed IS NOT NULL))
    ON CONFLICT (model, task_type) DO UPDATE SET agreed = agreed + excluded.agreed, counted = counted + excluded.counted;
END;
