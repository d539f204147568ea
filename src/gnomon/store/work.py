"""What batches bring to a store that takes several projects at once: rows by number, and what becomes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.event import SAMPLE_AT, Batch, Row
from gnomon.store.incoming import without_own_repeats


@dataclass
class Work:
    """The rows of batches with their numbers, and what becomes of those that are not stored."""

    batches: Sequence[tuple[int, Batch]]
    rows: list[Row] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)  #: the project of each row
    doubts: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    by_project: dict[str, list[Row]] = field(default_factory=dict)
    numbers: dict[int, list[int]] = field(default_factory=dict)  #: by `id` of a row, which may be there twice
    samples: list[tuple[str, bool, Row]] = field(default_factory=list)  #: project, whether it is replayed, the sample
    samples_left_out: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        checked = {batch.project for _, batch in self.batches if batch.checked_ids}
        replayed = {batch.project for _, batch in self.batches if batch.replayed}
        for _, batch in self.batches:
            doubt = 2 if batch.project in checked else 1 if batch.project in replayed else 0
            self.rows += batch.rows
            self.owners += [batch.project] * len(batch.rows)
            self.doubts += [doubt] * len(batch.rows)
            self.by_project.setdefault(batch.project, []).extend(batch.rows)
            self.samples += [(batch.project, batch.replayed, _with_id(row)) for row in batch.samples]
        self.doubtful = checked | replayed
        for n, row in enumerate(self.rows):
            self.numbers.setdefault(id(row), []).append(n)
        self._leave_out_own_repeats()

    def _leave_out_own_repeats(self) -> None:
        """Samples of an id that is among them twice."""
        named: dict[str, list[Row]] = {}
        for project, _, row in self.samples:
            if row[SAMPLE_AT["id"]] is not None:
                named.setdefault(project, []).append(row)
        kept = Counter(id(row) for rows in named.values() for row in without_own_repeats(rows, SAMPLE_AT)[0])
        for n, (_, _, row) in enumerate(self.samples):
            if row[SAMPLE_AT["id"]] is not None:
                kept[id(row)] -= 1  # the very same row may be there twice
                if kept[id(row)] < 0:
                    self.samples_left_out.add(n)

    def leave_out(self, rows: list[Row], reason: str) -> None:
        """These rows are not stored."""
        self.left_out.update((self.numbers[id(row)].pop(), reason) for row in rows)

    def told(self) -> dict[int, Counter[str]]:
        """What `Store.write` returns."""
        found: dict[int, Counter[str]] = {}
        n = 0
        for position, batch in self.batches:
            reasons = Counter(self.left_out[k] for k in range(n, n + len(batch.rows)) if k in self.left_out)
            n += len(batch.rows)
            if reasons:
                found[position] = reasons
        return found


def add(books: Counter[tuple[Any, ...]], entries: list[list[Any]]) -> None:
    """Add entries to the books."""
    for *entry, n in entries:
        books[tuple(entry)] += n


def _with_id(sample: Row) -> Row:
    """A sample that an earlier version put into the journal ends before its id."""
    return sample if len(sample) > SAMPLE_AT["id"] else (*sample, None)
