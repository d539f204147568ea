"""Rows of a batch as columns, as ClickHouse's blocks take them: moments as UTC microseconds, an id as a UUID."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import md5
from typing import Any, TypeAlias
from uuid import UUID

from gnomon.event import AT, FIELDS, Row

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch

Columns: TypeAlias = dict[str, Sequence[Any]]


def key_of(id_: str) -> tuple[UUID, str | None]:
    """A canonical UUID as it is; any other id is text beside its MD5, which only narrows the search."""
    if _CANONICAL(id_):
        return UUID(hex=id_), None
    return UUID(bytes=md5(id_.encode(), usedforsecurity=False).digest()), id_


def event_columns(owned: Sequence[tuple[str, Row]], keys: Sequence[tuple[UUID, str | None]], version: int) -> Columns:
    """Rows `(project, row)` as the columns of `events`."""
    columns: Columns = {
        "project": [project for project, _ in owned],
        "id": [key for key, _ in keys],
        "id_text": [text for _, text in keys],
        "version": [version] * len(owned),
    }
    parted = list(zip(*(row for _, row in owned), strict=True))
    columns |= {field.name: parted[AT[field.name]] for field in FIELDS if field.name != "id"}
    return columns


def turned(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    """Rows as columns of these names."""
    return dict(zip(names, zip(*rows, strict=True), strict=True))
