"""What batches bring to a store that takes several projects at once: rows by number, and what becomes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gnomon.event import SAMPLE_AT, Batch, Row, column, in_a_row
from gnomon.store.incoming import Edges, booked, sealed_entries, without_own_repeats


@dataclass
class Work:
    """The rows of batches with their numbers, and what becomes of those that are not stored."""

    batches: Sequence[tuple[int, Batch]]
    rows: Sequence[Row] = ()
    owners: list[str] = field(default_factory=list)  #: the project of each row
    doubts: list[int] = field(default_factory=list)  #: 0 an id that is new, see the stores for 1 and 2
    left_out: dict[int, str] = field(default_factory=dict)
    by_project: dict[str, Sequence[Row]] = field(default_factory=dict)
    samples: list[tuple[str, bool, Row]] = field(default_factory=list)  #: project, whether it is replayed, the sample
    samples_left_out: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        checked = {batch.project for _, batch in self.batches if batch.checked_ids}
        replayed = {batch.project for _, batch in self.batches if batch.replayed}
        parts: dict[str, list[Sequence[Row]]] = {}
        for _, batch in self.batches:
            doubt = 2 if batch.project in checked else 1 if batch.project in replayed else 0
            self.owners += [batch.project] * len(batch.rows)
            self.doubts += [doubt] * len(batch.rows)
            parts.setdefault(batch.project, []).append(batch.rows)
            self.samples += [(batch.project, batch.replayed, _with_id(row)) for row in batch.samples]
        self.rows = in_a_row([batch.rows for _, batch in self.batches])
        self.by_project = {project: in_a_row(rows) for project, rows in parts.items()}
        self.doubtful = checked | replayed
        self._leave_out_own_repeats()

    @cached_property
    def _numbers(self) -> dict[int, list[int]]:
        """By `id` of a row, which may be there twice."""
        found: dict[int, list[int]] = {}
        for n, row in enumerate(self.rows):
            found.setdefault(id(row), []).append(n)
        return found

    def column(self, name: str) -> Sequence[Any]:
        """One field of every row."""
        return column(self.rows, name)

    def stored(self, values: Sequence[Any]) -> Sequence[Any]:
        """Of values of every row, those of rows that are stored."""
        if not self.left_out:
            return values
        return [value for n, value in enumerate(values) if n not in self.left_out]

    def weighted(self) -> list[tuple[str, int, int]]:
        """Projects with rows of a weight, and the first and last moment of these."""
        weights = self.column("weight")
        if weights.count(1) == len(weights):
            return []
        moments: dict[str, list[int]] = {}
        for project, weight, ts in zip(*map(self.stored, (self.owners, weights, self.column("ts"))), strict=True):
            if weight != 1:
                moments.setdefault(project, []).append(ts)
        return [(project, min(found), max(found)) for project, found in moments.items()]

    def booked(self) -> Counter[tuple[Any, ...]]:
        """What it adds to the books, but for rows of sealed time."""
        books: Counter[tuple[Any, ...]] = Counter()
        for _, batch in self.batches:
            add(books, [[batch.project, *count] for count in batch.counts])
        for n, (project, _, _) in enumerate(self.samples):
            books[project, "sample", None, "duplicate" if n in self.samples_left_out else "stored", ""] += 1
        sources = self.column("source")
        stored = Counter(zip(self.stored(self.owners), self.stored(sources), strict=True))
        books.update({(project, "event", source, "stored", ""): n for (project, source), n in stored.items()})
        for n, outcome in self.left_out.items():
            if outcome != "sealed":
                books[self.owners[n], "event", sources[n], outcome, ""] += 1
        return books

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

    def part(self, edges: Edges) -> tuple[Counter[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Leave out rows of sealed time and repeats among the rows themselves. Returns what sealed time adds to the
        books, and what goes into quarantine."""
        books: Counter[tuple[Any, ...]] = Counter()
        refused = [(batch.project, *told) for _, batch in self.batches for told in batch.refused]
        for project, rows in self.by_project.items():
            kept, sealed = edges.part(project, rows)
            self.leave_out(sealed, "sealed")
            refused += sealed_entries(project, sealed)
            add(books, booked(project, "rejected", sealed, "sealed"))
            if project in self.doubtful:
                self.leave_out(without_own_repeats(kept)[1], "duplicate")
        return books, refused

    def leave_out(self, rows: list[Row], reason: str) -> None:
        """These rows are not stored."""
        self.left_out.update((self._numbers[id(row)].pop(), reason) for row in rows)

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
