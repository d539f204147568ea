"""The health of the engine itself: facts about files, journal and books, and findings with a remedy each."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gnomon.query.books import Books
from gnomon.query.gaps import holes, in_words, seconds_of
from gnomon.store.aliveness import Span
from gnomon.timerange import US_DAY

#: A batch that waits longer than this in the journal points at a store that does not keep up.
MOST_WAITING_BATCHES = 1_000
#: So many events outside of the partitions of their months say that those could not be made.
MOST_UNSORTED = 1_000_000


@dataclass(frozen=True)
class Finding:
    """Something that is not sound, and what to do about it."""

    what: str
    remedy: str


@dataclass
class Health:
    """Facts in the order in which a person reads them, and what is not sound."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"sound": self.sound, "facts": self.facts, "findings": [asdict(finding) for finding in self.findings]}


def examine(described: dict[str, Any], journal: dict[str, int], books: Books, lag: int, damaged: Sequence[Path],
            free_bytes: int, version: str, audit: dict[str, int], pseudonyms: str = "off",
            crowded: tuple[str, str] | None = None) -> Health:  # fmt: skip
    """Put facts and findings together. `lag` is the number of journal positions the store is behind, `crowded` what is
    wrong where the backups will not fit, and what to do."""
    from importlib.metadata import version as version_of  # deferred: 20 ms that opening an engine does not need

    health = Health()
    first, received, events = described["first_ts_us"], described["first_received_us"], described["events"]
    health.facts = {
        "gnomon": version,
        "python": platform.python_version(),
        "store": f"{described['store']} {described['store_version']}, schema {described['schema']}",
        "msgspec": msgspec.__version__,
        "sqlglot": version_of("sqlglot"),
        **({"every_block_readable": described["readable"]} if "readable" in described else {}),
        "events": events,
        "metric_samples": described["samples"],
        "quarantined": described["quarantined"],
        "pseudonyms": pseudonyms,
        "first_event": _iso(first),
        "last_event": _iso(described["last_ts_us"]),
        "store_bytes": described["bytes"],
        "bytes_per_event": round(described["bytes"] / events, 1) if events else 0,
        "journal_bytes": journal["bytes"],
        "journal_batches_waiting": journal["batches"],
        "journal_lag": lag,
        "disk_free_bytes": free_bytes,
        "growth": _growth(described, received, free_bytes),
        "books": books.to_dict(),
        **_collection(described["alive"], described["now_us"]),
        "audit_entries": audit["entries"],
        "audit_entries_waiting": audit["waiting"],
        "audit_entries_lost": audit["lost"],
    }
    _judge_server(health, described)
    if not described.get("readable", True):
        health.findings.append(
            Finding("the store file is damaged", "Close the engine and open it again; see operations.md.")
        )
    _judge_lost(health, described["lost"])
    _judge(health, books, lag, damaged, free_bytes)
    _judge_audit(health, audit)
    if crowded is not None:
        health.findings.append(Finding(*crowded))
    return health


def _judge(health: Health, books: Books, lag: int, damaged: Sequence[Path], free_bytes: int) -> None:
    if not books.closes():
        health.findings.append(Finding("the books do not close", "Keep the files as they are and report this."))
    if lag > MOST_WAITING_BATCHES:
        health.findings.append(
            Finding(
                f"the store is {lag:,} batches behind the journal", "Look for errors in the log; check disk and memory."
            )
        )
    if books.shed.total():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in books.shed.items())
        health.findings.append(
            Finding(f"events were shed: {reasons}", "Raise buffer_events, or free the disk the journal is on.")
        )
    for path in damaged:
        health.findings.append(
            Finding(
                f"a damaged file was set aside: {path.name}",
                "What could be read was carried over; remove it when you no longer need it.",
            )
        )
    if free_bytes < 256 * 1024**2:
        health.findings.append(Finding("less than 256 MiB are free on the disk of the store", "Free disk space."))


def _judge_lost(health: Health, lost: Sequence[tuple[int, int]]) -> None:
    """Rollups that went with a damaged part, and cannot be made again."""
    for start, end in sorted({*lost}):
        since = "" if start < 0 else f"from {_iso(start)} "
        health.findings.append(
            Finding(
                f"rollups {since}to {_iso(end)} were lost with a damaged part, and their raw rows were pruned",
                "Questions about that time are refused; restore a backup from before the damage to ask them.",
            )
        )


def _judge_server(health: Health, described: dict[str, Any]) -> None:
    """What only a database server can have wrong."""
    for fact, told in (("events", "events"), ("metric_samples", "samples")):
        if described.get(f"{told}_estimated"):
            health.facts[fact] = f"about {described[told]:,} (an estimate of the database)"
    if not described.get("fsync", True):
        health.findings.append(
            Finding("the database does not wait for its disk (fsync = off)", "Set fsync = on in its settings.")
        )
    if described.get("standby"):
        health.findings.append(
            Finding("the database is a standby, which takes nothing", "Name the primary in the store's URL.")
        )
    if described.get("default_partition_rows", 0) > MOST_UNSORTED:
        health.findings.append(
            Finding(
                f"{described['default_partition_rows']:,} events are in no partition of a month, which is slow",
                "End questions that run for minutes; it is mended by itself at a checkpoint.",
            )
        )


def _judge_audit(health: Health, audit: dict[str, int]) -> None:
    if audit["waiting"] or audit["lost"]:
        health.findings.append(
            Finding(
                f"{audit['waiting']:,} entries of the audit could not be written yet, {audit['lost']:,} are lost",
                "Free disk space; those that wait are written with the next question.",
            )
        )
    if audit["broken"]:
        health.findings.append(
            Finding("the audit was changed or is damaged", "Run `gnomon audit verify`; see audit.md.")
        )


def _growth(described: dict[str, Any], received_us: int | None, free_bytes: int) -> str:
    """Bytes a day at the pace of the time since the first event came in, and when the disk would be full."""
    if not described["events"] or received_us is None:
        return "nothing recorded yet"
    days = (described["now_us"] - received_us) / 86_400_000_000
    if days < 1:
        return "less than a day of recording: too short to say"
    a_day = described["bytes"] / days
    return f"{a_day / 1024**2:,.1f} MiB a day; the disk lasts about {free_bytes / max(a_day, 1):,.0f} days"


def _collection(alive: Sequence[Span], now_us: int) -> dict[str, str]:
    """When somebody was last there to record, and in how much of the last week nobody was."""
    found = holes(alive, now_us - 7 * US_DAY, now_us)
    spans = f"{len(found):,} span{'s' * (len(found) != 1)}, {in_words(seconds_of(found))}" if found else "none"
    return {"last_heartbeat": _iso(alive[-1][1] if alive else None), "not_collected_in_7_days": spans}


def _iso(us: int | None) -> str:
    from datetime import UTC

    from gnomon.timerange import from_us

    return "-" if us is None else from_us(us, UTC).isoformat()
