-- What is learned from use: which arm of an experiment a call was in, and what users say of answers.

-- arm: `<experiment>/<arm>`, the same on every attempt of a call; NULL outside of experiments.
ALTER TABLE holds ADD COLUMN arm TEXT;

ALTER TABLE usage ADD COLUMN arm TEXT;

-- usage_id: the attempt that it is about: the one that answered, or else the last; of a tournament the winner's, or the ballot that was
-- named. user: who says it, each once of an attempt.
CREATE TABLE feedback (
    call_id TEXT NOT NULL,
    usage_id TEXT NOT NULL,
    user TEXT NOT NULL,
    rating REAL NOT NULL CHECK (rating BETWEEN -1 AND 1),
    comment TEXT,
    at INTEGER NOT NULL,
    PRIMARY KEY (usage_id, user)
) STRICT, WITHOUT ROWID;
