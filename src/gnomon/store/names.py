"""The SQL that finds the names which the rows of a project bring: its event types and property keys."""

from __future__ import annotations

from gnomon.store.dialect import quoted


def span(project: str) -> str:
    """The first and the last version of the rows of a project."""
    return f"SELECT min(version), max(version) FROM events WHERE project = {quoted(project)}"


def rolled_types(project: str, most: int) -> str:
    """The types of a project in its rollups, also those of pruned time."""
    return f"SELECT DISTINCT type FROM rolled WHERE project = {quoted(project)} LIMIT {most}"


def types(project: str, first: int, last: int, most: int) -> str:
    """The types of the rows of some versions, both ends included."""
    return f"SELECT DISTINCT type FROM events WHERE {_rows(project, first, last)} LIMIT {most}"


def keys(project: str, first: int, last: int, most: int) -> str:
    """The property keys of the rows of some versions, both ends included."""
    where = f"{_rows(project, first, last)} AND properties IS NOT NULL"
    return f"SELECT DISTINCT unnest(json_keys(coalesce(properties, '{{}}'))) FROM events WHERE {where} LIMIT {most}"


def _rows(project: str, first: int, last: int) -> str:
    return f"project = {quoted(project)} AND version BETWEEN {first} AND {last}"
