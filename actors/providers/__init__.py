"""The I/O behind a provider: HTTP to real ones, and one that only plays its part."""
