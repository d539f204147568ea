"""The way in: record, check, journal, store; and files. Which file does what: the map in CONTRIBUTING.md."""
