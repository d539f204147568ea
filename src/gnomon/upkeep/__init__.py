"""The truth over time: rollups, retention, erasure, backups, the audit, and the jobs that run them."""
