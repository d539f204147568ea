"""Reports and questions over HTTP."""

from __future__ import annotations

from fastapi import APIRouter


def router() -> APIRouter:
    """The routes of this module."""
    return APIRouter(tags=["reports"])
