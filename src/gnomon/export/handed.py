"""Export jobs that are handed to a worker: what was ordered, kept beside the job until it is done, and who is at it.

Whoever is at a job holds the lock on the file of its order, so a job is done by one process at a time, and by another
one when that process dies. Without its order a job must not be done: `withdraw` takes it away when somebody in it is
forgotten. Only an order of plain values can be handed over.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from gnomon.config import Settings
from gnomon.errors import PASSING, GnomonError, InvalidValue, StoreBusy
from gnomon.export.jobs import ExportJob, Folder, interrupted, new_file, writing
from gnomon.export.ordering import Order
from gnomon.export.reading import Rows
from gnomon.export.running import Task
from gnomon.files import sync_folder
from gnomon.timerange import DateRange, load_zone

MOST_TRIES = 5  #: processes that may die over one job
WAIT_SECONDS = 60.0  #: a handed job that nobody has touched for so long is done by whoever notices
WITHDRAW_SECONDS = 10.0
_TRIES = 1  #: length of their number, the first byte of the file


class Ordered(msgspec.Struct, frozen=True):
    """One order as it is kept. `range` is in UTC us; `version` is that of the data when it was ordered."""

    format: str
    fields: list[str] | None
    filters: Any
    query: dict[str, Any] | None
    range: tuple[int, int]
    zone: str
    version: int
    caller: tuple[str, list[str]]
    likeness: str

    def order(self, ahead: int) -> Order:
        """The order that was checked before; raises what making one raises."""
        found = Order("all", self.format, self.fields, self.filters, self.query, ahead=ahead)
        zone = load_zone(self.zone)
        found.query = replace(found.query, date_range=DateRange(*self.range, zone), timezone=self.zone)
        found.version = self.version
        return found


def ordered(given: dict[str, Any], rows: Rows, caller: tuple[str, list[str]], likeness: str) -> Ordered | None:
    """What has to be kept of an order; None where it holds more than plain values. `given` has its arguments."""
    plain = {name: given[name] for name in ("fields", "filters", "query")}
    if isinstance(plain["query"], dict):
        plain["query"] = {name: value for name, value in plain["query"].items() if name != "date_range"}
    if not _is_plain(plain):
        return None
    span = rows.range
    return Ordered(format=given["format"], **plain, range=(span.start_us, span.end_us), zone=span.zone.key,
                   version=rows.version, caller=caller, likeness=likeness)  # fmt: skip


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(one) for key, one in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, int, bool)


def likeness(settings: Settings, store_id: str) -> str:
    """The same for two processes that give the same answers: of one store, with settings that decide alike."""
    deciding = [store_id, settings.pseudonym_keys, settings.pseudonym_properties, settings.timezones,
                settings.heartbeat_seconds]  # fmt: skip
    return blake2b(msgspec.json.encode(deciding), digest_size=16).hexdigest()


# -- the file ----------------------------------------------------------------------------------------------------------


def keep_order(folder: Folder, job: ExportJob, order: Ordered) -> None:
    """Keep it beside its job. Raises `DiskFull`, `StoreUnavailable`."""
    part = folder.path / f"{job.id}.order.part"
    with writing():
        with new_file(part) as file:
            file.write(b"0" + msgspec.json.encode(order))
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder.order(job.id))
        sync_folder(folder.path)


@dataclass
class Claim:
    """The right to do a job, held until `release()` or the end of the process."""

    job: ExportJob
    order: Ordered
    tries: int
    _path: Path
    _file: int

    @property
    def stands(self) -> bool:
        """Whether the order is still there."""
        try:
            return self._path.stat().st_ino == os.fstat(self._file).st_ino
        except OSError:
            return False

    def finish(self) -> None:
        """The job is done: nobody may begin it again."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let somebody else do it."""
        os.close(self._file)


def claim(folder: Folder, job_id: str) -> Claim | None:
    """The right to do a job, or None where it is done, withdrawn, or somebody else is at it."""
    path = folder.order(job_id)
    file = _locked(path)
    if file is None:
        return None
    try:
        job = folder.load(job_id)
        data = os.pread(file, os.fstat(file).st_size, 0)
        if job is None or job.state in ("completed", "failed"):
            path.unlink(missing_ok=True)
        else:
            found = Claim(job, msgspec.json.decode(data[_TRIES:], type=Ordered), int(data[:_TRIES]) + 1, path, file)
            if found.stands:
                os.pwrite(file, str(min(found.tries, 9)).encode(), 0)
                return found
    except (ValueError, msgspec.MsgspecError):
        path.unlink(missing_ok=True)  # of another version, or none of ours: the job fails as one that was cut short
    os.close(file)
    return None


def _locked(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def withdraw(folder: Folder, job_id: str) -> None:
    """Take an order away, and wait until nobody is at it: what is written until then is removed by its writer."""
    path = folder.order(job_id)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    path.unlink(missing_ok=True)
    until = time.monotonic() + WITHDRAW_SECONDS
    try:
        while time.monotonic() < until:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.02)
    finally:
        os.close(file)


def is_idle(folder: Folder, job: ExportJob) -> bool:
    """Whether nobody has touched a handed job for a while."""
    try:
        return time.time() - folder.entry(job.id).stat().st_mtime >= WAIT_SECONDS
    except OSError:
        return False


# -- the work ----------------------------------------------------------------------------------------------------------


class ClaimedTask(Task):
    """A job that was claimed. `again` holds why it has to be tried again, where `patient` lets it wait for that."""

    claim: Claim
    again: GnomonError | None = None
    patient: bool = False
    TRANSIENT: ClassVar[tuple[str, ...]] = (*PASSING, StoreBusy.code)

    def is_off(self) -> bool:
        """See `Task.is_off`."""
        return self.stopped.is_set() or not self.claim.stands

    def run(self) -> None:
        """See `Task.run`; gives the claim back."""
        try:
            super().run()
            if not self.claim.stands:
                self.folder.remove(self.job)
            elif self.again is None and not self.unsaved:
                self.claim.finish()
        finally:
            self.claim.release()

    def fail(self, error: GnomonError) -> None:
        """See `Task.fail`; what passes by itself does not end a job that may wait."""
        if self.patient and error.code in self.TRANSIENT and self.claim.stands:
            self.again = error
            self.folder.part(self.job).unlink(missing_ok=True)
            self.job.state, self.job.rows, self.job.size, self.job.progress = "queued", 0, 0, 0.0
            with suppress(GnomonError):
                self.folder.save(self.job)
            return
        super().fail(error)


def worn_out() -> InvalidValue:
    """Why a job is given up that ended every process which tried it."""
    why = interrupted()
    return InvalidValue(f"{why.message} {MOST_TRIES} times", remedy="Export less at a time.", code=why.code)
