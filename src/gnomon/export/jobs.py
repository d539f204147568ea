"""Export jobs: what is known of each, and the folder that keeps them. `running` does them.

A job is a small JSON file beside the file that it makes. What was asked is not kept (it may name people), so a job
that was cut short by the end of its process fails with that reason and is not begun again; but see `handed`.
"""

from __future__ import annotations

import errno
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from gnomon.errors import DiskFull, GnomonError, InvalidValue, StoreUnavailable
from gnomon.ingest.owner import OwnerLock

_ID = re.compile(r"[0-9a-f]{32}")


class ExportJob(msgspec.Struct, kw_only=True):
    """An export as it was when asked about. `progress` is 0 to 1, `size` bytes; times are UTC.

    `state` is queued, processing, completed or failed; `code`, `message` and `remedy` say why it failed. `sampled`
    says that some events stand for several: sum the weights. `range` is half-open.
    """

    id: str
    format: str
    project: str
    owner: str
    created: datetime
    range: tuple[datetime, datetime]
    fields: list[str]
    sampled: bool = False
    process: str = ""  #: which runner has it; those of a dead one are cut short
    state: Literal["queued", "processing", "completed", "failed"] = "queued"
    progress: float = 0.0
    rows: int = 0
    size: int = 0
    finished: datetime | None = None
    expires: datetime | None = None
    code: str | None = None
    message: str | None = None
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times as ISO texts."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        del found["process"]
        return found


class Folder:
    """The jobs of a store on disk: `<id>.job`, and `<id>.<format>` once it is completed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, job: ExportJob) -> None:
        """Keep a job. Raises `DiskFull`, `StoreUnavailable`."""
        with writing():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self.path / f"{job.id}.job.part"
            with new_file(part) as file:
                file.write(msgspec.json.encode(job))
            part.replace(self.entry(job.id))

    def load(self, job_id: object) -> ExportJob | None:
        """The job of that id, or None."""
        if not isinstance(job_id, str) or not _ID.fullmatch(job_id):
            return None
        try:
            return msgspec.json.decode(self.entry(job_id).read_bytes(), type=ExportJob)
        except (OSError, msgspec.MsgspecError):
            return None

    def jobs(self) -> list[ExportJob]:
        """All jobs, the newest first."""
        found = [self.load(path.stem) for path in self.path.glob("*.job")] if self.path.exists() else []
        return sorted((job for job in found if job is not None), key=lambda job: (job.created, job.id), reverse=True)

    def data(self, job: ExportJob) -> Path:
        """Where the file of a completed job lies."""
        return self.path / f"{job.id}.{job.format}"

    def part(self, job: ExportJob) -> Path:
        """Where it lies while it is written."""
        return self.path / f"{job.id}.part"

    def order(self, job_id: str) -> Path:
        """Where the order of a job lies that was handed to a worker, until it is done."""
        return self.path / f"{job_id}.order"

    def remove(self, job: ExportJob) -> None:
        """Remove a job and its file. The order goes first: whoever is at it removes what it writes then."""
        for path in (self.order(job.id), self.data(job), self.part(job), self.entry(job.id)):
            path.unlink(missing_ok=True)

    def lock_of(self, process: str) -> OwnerLock:
        """What a process holds while it has jobs in this folder, which others may look into as well."""
        return OwnerLock(self.path / f"{process}.alive")

    def is_alive(self, process: str) -> bool:
        """Whether a process that has jobs here still runs."""
        lock = self.lock_of(process)
        if not lock.path.exists():
            return False
        if not lock.acquire():
            return True
        lock.path.unlink(missing_ok=True)
        lock.release()
        return False

    def entry(self, job_id: str) -> Path:
        """Where what is known of a job lies."""
        return self.path / f"{job_id}.job"


class writing:  # noqa: N801  a context manager that reads like a word
    """Turns what a full or missing disk raises into our words."""

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, GnomonError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("the disk has no room for the export", remedy="Free some, then repeat it.") from error
            raise StoreUnavailable("the folder of exports cannot be written", remedy="Check export_dir and its rights.",
                                   code="export-unwritable") from error  # fmt: skip


def interrupted() -> InvalidValue:
    """Why a job failed that nobody finished."""
    return InvalidValue("the export was cut short", remedy="Export it again.", code="export-interrupted")


def utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    return moment.astimezone(UTC)


def new_file(path: Path) -> IO[bytes]:
    """An empty file that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
