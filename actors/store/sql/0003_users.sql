-- What users chose: a model for each provider, one of them the default, with parameters of their own; and models of conversations.

CREATE TABLE users (
    name TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- defaults: parameters where a request says nothing; overrides: parameters whatever it says. These and metadata are JSON objects.
CREATE TABLE user_models (
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    use_count INTEGER NOT NULL DEFAULT 0,
    defaults TEXT NOT NULL CHECK (json_valid(defaults)),
    overrides TEXT NOT NULL CHECK (json_valid(overrides)),
    metadata TEXT NOT NULL CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (user, provider)
) STRICT;

CREATE UNIQUE INDEX one_default ON user_models (user) WHERE is_default = 1;

CREATE TABLE conversations (
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    conversation TEXT NOT NULL,
    model TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (user, conversation)
) STRICT, WITHOUT ROWID;
