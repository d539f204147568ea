"""What admins read and set: sampling, retention, backups, the audit, write keys and event types."""

from __future__ import annotations

from fastapi import APIRouter


def router() -> APIRouter:
    """The routes of this module."""
    return APIRouter(tags=["admin"])
