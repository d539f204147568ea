"""Rows of a batch as columns, as ClickHouse's blocks take them: moments as UTC microseconds, an id as a UUID."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from gnomon.event import FIELDS
from gnomon.store.incoming import Key
from gnomon.store.work import Work

Columns: TypeAlias = dict[str, Sequence[Any]]


def event_columns(work: Work, keys: Sequence[Key], version: int) -> Columns:
    """The rows that are stored as the columns of `events`."""
    columns: Columns = {
        "project": work.owners,
        "id": [key for key, _ in keys],
        "id_text": [text for _, text in keys],
        "version": [version] * len(keys),
    }
    columns |= {field.name: work.column(field.name) for field in FIELDS if field.name != "id"}
    return {name: work.stored(values) for name, values in columns.items()}


def turned(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    """Rows as columns of these names."""
    return dict(zip(names, zip(*rows, strict=True), strict=True))
