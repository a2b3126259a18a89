"""Pure rules: what is decided, apart from who acts on it. No actor, no store, no I/O."""
