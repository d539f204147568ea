"""Schema versions of the embedded store, as numbered SQL files. A released file never changes; a new one follows it."""
