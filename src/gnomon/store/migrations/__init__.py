"""Schema versions of the embedded store, as numbered SQL files. A file never changes once released; a new one follows it."""
