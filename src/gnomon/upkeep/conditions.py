"""The table of conditions worth waking somebody: each is a name, what it means, and a function that looks.

A new one is a row here and in docs/operations.md. A function looks at facts that are at hand; none asks the store for
more than a few rows, as they run twice a minute.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

from gnomon.errors import GnomonError, StoreBusy, StoreUnavailable
from gnomon.ingest.recovery import found_damage
from gnomon.store import SUSPECT
from gnomon.timerange import US_DAY, US_SECOND, to_us
from gnomon.upkeep.accounting import Accounting
from gnomon.upkeep.alerts import Condition, Found, Sight
from gnomon.upkeep.jobs import JOBS, Job, backs_up
from gnomon.upkeep.turns import last_done
from gnomon.upkeep.workers import AWAY_SECONDS, sent_out, silent_seconds

#: Shares of the journal's limit that its waiting content takes: a checkpoint is made at half of it, so that more means
#: that the store does not take it.
JOURNAL_WARNING, JOURNAL_CRITICAL = 0.7, 0.9
FREE_WARNING, FREE_CRITICAL = 256 * 1024**2, 64 * 1024**2  #: bytes
OVERDUE_US = 2 * US_DAY  #: a backup is due every day


def _store_unavailable(sight: Sight) -> Found | None:
    writer = sight.hold.writer
    if writer is None:
        try:
            sight.engine._own_or_refuse()
        except StoreBusy:
            raise
        except GnomonError as error:
            return Found("critical", f"the store cannot be opened ({error.code})", error.remedy or "See the log.")
        return None
    fault = writer.fault
    if fault is None:
        return None
    return Found("critical", f"the store takes nothing ({fault.code}); what is recorded waits in the journal",
                 fault.remedy or "See the log, and free disk space.")  # fmt: skip


def _store_refilling(sight: Sight) -> Found | None:
    writer = sight.hold.writer
    if writer is None or not writer.catching_up:
        return None
    return Found("warning", "the store fell back to its last checkpoint and is being filled again from the journal",
                 "Wait; if it lasts, see the log and free disk space.")  # fmt: skip


def _store_damaged(sight: Sight) -> Found | None:
    file = sight.hold.file
    if file.with_name(file.name + SUSPECT).exists():
        return Found("critical", "a block of the store cannot be read",
                     "Close the engine and open it again: it sets the file aside and rebuilds it.")  # fmt: skip
    damaged = found_damage(file)
    if not damaged:
        return None
    return Found("warning", f"damaged files were set aside: {len(damaged)}",
                 "See what was carried over in the log; remove them when you no longer need them.")  # fmt: skip


def _journal_full(sight: Sight) -> Found | None:
    journal = sight.hold.journal
    share = journal.used_bytes() / journal.max_bytes
    if share < JOURNAL_WARNING:
        return None
    return Found("critical" if share >= JOURNAL_CRITICAL else "warning",
                 f"the journal is filled to {share:.0%} of its limit; at 100 % nothing more is taken in",
                 "See why the store takes nothing (`gnomon doctor`), or raise journal_max_bytes.")  # fmt: skip


def _disk_full(sight: Sight) -> Found | None:
    if sight.hold.in_memory:
        return None
    free = shutil.disk_usage(sight.hold.file.parent).free
    if free >= FREE_WARNING:
        return None
    return Found("critical" if free < FREE_CRITICAL else "warning",
                 f"{free // 1024**2:,} MiB are free on the disk of the store", "Free disk space.")  # fmt: skip


def _backup_overdue(sight: Sight) -> Found | None:
    if not backs_up(sight.engine.settings):
        return None
    made = last_done(sight.engine, _job("backup"))
    if made is None and not sight.watch.scheduled:
        return None  # nobody runs jobs here, so backups are somebody else's work
    age = to_us(sight.engine.clock()) - (sight.watch.began_us if made is None else made)
    if age < OVERDUE_US:
        return None
    told = "there is no good backup" if made is None else f"the last good backup is {age // US_DAY} days old"
    return Found("critical", told, "See the log for why the job fails, and `gnomon backup`.")


def _backup_room(sight: Sight) -> Found | None:
    found = sight.engine._crowded_backups()
    return None if found is None else Found("warning", *found)


def _audit_broken(sight: Sight) -> Found | None:
    if not any(state["broken"] for state in _audits(sight)):
        return None
    return Found("critical", "the audit was changed or is damaged", "Run `gnomon audit verify`; see audit.md.")


def _audit_unwritten(sight: Sight) -> Found | None:
    waiting, lost = (sum(state[name] for state in _audits(sight)) for name in ("waiting", "lost"))
    if not waiting and not lost:
        return None
    return Found("warning", f"{waiting:,} entries of the audit wait, {lost:,} are lost",
                 "Free disk space; those that wait are written with the next question.")  # fmt: skip


def _audits(sight: Sight) -> list[dict[str, int]]:
    """How the audit is, as the engines of this process see it."""
    return [engine._audit.state() for engine in list(sight.hold.collectors) if isinstance(engine, Accounting)]


def _books_open(sight: Sight) -> Found | None:
    for kind in ("event", "sample"):
        if not sight.engine.books(kind).closes():
            return Found("critical", f"the books of {kind}s do not close", "Keep the files as they are and report it.")
    return None


def _health(sight: Sight) -> Found | None:
    standing = sight.engine._standing()
    if standing.level == "healthy":
        return None
    told = ", ".join(f"{reason.metric} {reason.value:.4g}" for reason in standing.reasons)
    return Found(standing.level, f"the last 24 hours are {standing.level}: {told}", "See the dashboard.")


def _workers_away(sight: Sight) -> Found | None:
    if not sent_out(sight.engine):
        return None
    silent = silent_seconds(sight.engine)
    if silent is None:  # nobody has started one yet, or just now
        silent = (to_us(sight.engine.clock()) - sight.watch.began_us) / US_SECOND
    if silent < AWAY_SECONDS:
        return None
    return Found("warning", f"no worker has made a round for {silent / 60:,.0f} minutes: other processes do the jobs",
                 "Start `gnomon worker`, and see whether it reaches the broker and the database.")  # fmt: skip


def _job(name: str) -> Job:
    return next(one for one in JOBS if one.name == name)


def _done_since(sight: Sight, job: Job, at_us: int) -> bool:
    """Whether another process has done a job since this one failed at it."""
    if job.here or not sight.hold.served:
        return False
    with suppress(StoreUnavailable):  # which may well be why it failed
        return (last_done(sight.engine, job) or 0) > at_us
    return False


def _failed(name: str) -> Condition:
    """The condition of a job that fails, until it is done, which another process may do."""
    job = _job(name)

    def look(sight: Sight) -> Found | None:
        found = sight.watch.failures.get((name, None if job.whole_store else sight.engine.settings.project))
        if found is None:
            return None
        error, at_us = found
        if _done_since(sight, job, at_us):
            return None
        return Found("warning", f"the job {name} failed ({error.code}) and is tried again",
                     error.remedy or "See the log.")  # fmt: skip

    return Condition(f"{name.replace(' ', '-')}-failed", f"the job {name} failed", job.whole_store, look)


CONDITIONS: tuple[Condition, ...] = (
    Condition("store-unavailable", "the store takes nothing", True, _store_unavailable),
    Condition("store-refilling", "the store is filled again from the journal", True, _store_refilling),
    Condition("store-damaged", "a file is damaged, or was and is set aside", True, _store_damaged),
    Condition("journal-full", "the journal nears its limit", True, _journal_full),
    Condition("disk-full", "the disk of the store is full", True, _disk_full),
    Condition("audit-broken", "the chain of the audit does not fit", True, _audit_broken),
    Condition("audit-unwritten", "entries of the audit wait or are lost", True, _audit_unwritten),
    Condition("backup-overdue", "there is no backup of the last two days", True, _backup_overdue),
    Condition("backup-room", "not all backups fit beside the store that are to be kept", True, _backup_room),
    Condition("workers-away", "no Celery worker is at the jobs", True, _workers_away),
    Condition("books-open", "the books do not close", False, _books_open),
    Condition("health", "errors or durations of the last 24 hours are above a threshold", False, _health),
    *(_failed(job.name) for job in JOBS if job.period),
)
