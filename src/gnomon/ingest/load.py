"""A file on its way in: read, through the gate, into the journal, a chunk at a time, and a report of what became of it.

Bad lines are counted and kept in quarantine; they never stop an import. A file imported again adds nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gnomon.event import Batch, column
from gnomon.ingest.collector import batch_from
from gnomon.ingest.gate import Gate, Refused, source_of
from gnomon.ingest.importers import BadLine, Candidate, Chunk, Progress, Table, read_file
from gnomon.ingest.journal import Journal
from gnomon.ingest.writer import Writer

#: Chunks that may be ahead of the store, so that an import does not fill the journal.
MOST_AHEAD = 24


@dataclass
class ImportReport:
    """What became of a file's lines. `stored` and `duplicate` are None in a process that does not own the store."""

    path: str
    lines: int = 0
    stored: int | None = 0
    duplicate: int | None = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: list[tuple[int, str, str]] = field(default_factory=list)  #: line, code, detail of the first ten
    seconds: float = 0.0

    def __str__(self) -> str:
        known = "durable" if self.stored is None else f"{self.stored:,} stored, {self.duplicate:,} already there"
        bad = ", ".join(f"{n:,} {code}" for code, n in sorted(self.rejected.items()))
        rate = self.lines / self.seconds if self.seconds else 0
        rejected = f", rejected: {bad}" if bad else ""
        return f"{Path(self.path).name}: {self.lines:,} lines, {known}{rejected} ({rate:,.0f} lines/s)"


class Loader:
    """Imports files into one project."""

    def __init__(
        self, project: str, gate: Gate, journal: Journal, clock_us: Callable[[], int], writer: Writer | None
    ) -> None:
        self._project = project
        self._gate = gate
        self._journal = journal
        self._clock_us = clock_us
        self._writer = writer

    def load(self, path: Path, *, format: str | None, mapping: Mapping[str, str] | None, timezone: str | None,
             on_progress: Callable[[Progress], None] | None) -> ImportReport:  # fmt: skip
        """Import one file. Raises `InvalidValue` for a file, format or mapping that cannot be used."""
        report = ImportReport(str(path))
        started = time.monotonic()
        positions: list[int] = []
        accepted = 0
        moments: list[int] = []  # of the first and last event
        id_key = b"" if self._gate.pseudonyms is None else self._gate.pseudonyms.id_key
        for chunk in read_file(
            path, format=format, mapping=mapping, timezone=timezone, on_progress=on_progress, id_key=id_key
        ):
            batch = self._batch(chunk, report)
            accepted += len(batch.rows)
            times = [*moments, *column(batch.rows, "ts")]
            moments = [min(times), max(times)] if times else []
            positions += self._journal.append([batch])
            if self._writer is not None:
                self._writer.offer(positions[-1:], [batch], watch=True)
                if len(positions) > MOST_AHEAD:
                    self._writer.wait_for(positions[-MOST_AHEAD], timeout=60.0)
        if moments:  # a file tells of all the time from its first event to its last, whoever was there then
            positions += self._journal.append([Batch(self._project, beats=[(moments[0], moments[1], False)])])
        report.stored = report.duplicate = None
        if self._writer is not None and (not positions or self._writer.wait_for(positions[-1], timeout=600.0)):
            left_out = self._writer.left_out(positions)
            report.duplicate = left_out.pop("duplicate", 0)
            report.rejected += left_out
            report.stored = accepted - report.duplicate - left_out.total()
        report.seconds = time.monotonic() - started
        return report

    def _batch(self, chunk: Chunk, report: ImportReport) -> Batch:
        if isinstance(chunk, Table):
            proven = self._gate.admit_columns(chunk.columns, len(chunk), imported=True)
            if proven is not None:
                batch = Batch(self._project)
                batch_from(batch, proven, self._clock_us())
                report.lines += len(chunk)
                return batch
        items = list(chunk)
        good = [item for item in items if isinstance(item, Candidate)]
        bad = [item for item in items if isinstance(item, BadLine)]
        batch = Batch(self._project)
        bad = [replace(item, text=self._gate.shown_line(item.text)) for item in bad]
        bad += [self._timeless(item) for item in good if item.fields.get("ts") is None]
        good = [item for item in good if item.fields.get("ts") is not None]
        admitted = self._gate.admit_fields([item.fields for item in good], imported=True)
        lines = [(good[refused.index].line, refused) for refused in admitted.refused]
        lines += [(item.line, Refused(0, item.code, item.reason, item.text, source_of(None))) for item in bad]
        admitted.refused = [refused for _, refused in sorted(lines, key=lambda pair: pair[0])]
        admitted.received.update([None] * len(bad))
        batch_from(batch, admitted, self._clock_us())
        report.lines += len(chunk)
        report.rejected.update(refused.code for _, refused in lines)
        for line, refused in sorted(lines, key=lambda pair: pair[0])[: 10 - len(report.first_rejected)]:
            report.first_rejected.append((line, refused.code, refused.detail))
        return batch

    def _timeless(self, item: Candidate) -> BadLine:
        """A line without a time: taking the time of the import would make it another event at the next one."""
        reason = "no time: map a column to ts, or give a constant (ts==...)"
        return BadLine(item.line, code="missing-time", reason=reason, text=self._gate.shown(item.fields))
