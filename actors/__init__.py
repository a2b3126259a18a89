"""The state: one actor per concern, and the pure rules."""
