"""The verbs of exporting over HTTP: jobs that the service works on, their files, and streams of events.

A file that is fetched is whole or it is not there: what was cut off goes on where it ended. An order is sent once, as
an answer that got lost says nothing about the job.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import msgspec

from gnomon.client.asking import ATTEMPTS, Asking, given, json_of, range_of, unreachable
from gnomon.errors import GnomonError, InvalidValue, UnknownName

if TYPE_CHECKING:
    from gnomon.export.jobs import ExportJob

__all__ = ["Exporting", "Stream"]

#: Parts of a file fit together only as they lie on the disk.
_PLAIN = {"Accept-Encoding": "identity"}


class Stream:
    """The bytes of a file as they come; `close()` it where it is not read to its end."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer, self._parts = answer, answer.iter_bytes()
        self.sampled = answer.headers.get("x-gnomon-basis") == "sampled"  #: some events stand for several

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except httpx.HTTPError as error:
            raise unreachable() from error

    def close(self) -> None:
        """Let go of it, read or not."""
        self._answer.close()


class Exporting(Asking):
    """Exports of one service. Mixed into the client."""

    def export_analytics(self, time_range: Any = "all", format: str = "csv", fields: Sequence[str] | None = None,
                         filters: Any = None, query: Mapping[str, Any] | None = None) -> ExportJob:  # fmt: skip
        """Order a file, as `AnalyticsEngine.export_analytics`, and return its job at once."""
        body = json_of({"format": format, "date_range": range_of(time_range), "fields": fields, "filters": filters,
                        "query": query})  # fmt: skip
        return self.get_export_status(self._call("POST", "exports", repeat=False, content=body)["id"])

    def get_export_status(self, job_id: str) -> ExportJob:
        """The job as it is now. Raises `UnknownName` (no-such-export), also for one of somebody else."""
        with _of_a_job():
            return _job(self._call("GET", f"exports/{quote(job_id, safe='')}"))

    def exports(self) -> list[ExportJob]:
        """The caller's jobs in this project, the newest first."""
        return [_job(told) for told in self._call("GET", "exports")["exports"]]

    def download_export(self, job_id: str, path: str | os.PathLike[str]) -> Path:
        """Fetch the finished file to `path`, a file or a folder, and return where it is.

        Raises what `AnalyticsEngine.download_export` raises, and `StoreUnavailable` where the file does not come.
        """
        from gnomon.export.jobs import new_file, writing

        job, target = self.get_export_status(job_id), Path(path)
        if target.is_dir():
            target /= f"export-{job.id}.{job.format}"
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with writing(), new_file(part) as file:
                self._fetch(job, file)
            with writing():
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def _fetch(self, job: ExportJob, file: IO[bytes]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if file.tell() and file.tell() == job.size:
                return  # the connection broke behind the last byte
            more = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
            with _of_a_job():
                answer = self._reach("GET", f"exports/{job.id}/download", file=True, headers=_PLAIN | more)
            with closing(answer), suppress(httpx.HTTPError):
                if answer.status_code == 200:
                    file.truncate(file.seek(0))
                for data in answer.iter_raw():
                    file.write(data)
                return
            time.sleep(self._patience.wait(attempt))
        raise unreachable()

    def stream_export(self, time_range: Any = "all", format: str = "csv", fields: Sequence[str] | None = None,
                      filters: Mapping[str, Any] | None = None, after: Any = None) -> Stream:  # fmt: skip
        """The events of a range as an iterator of bytes, however many there are; memory stays flat.

        The range is `"all"` or a start and an end, filters are a mapping with `type` and `user_id`: what asks for more
        is an export job. It has `sampled` and `close()`. Who lost the connection goes on with `after=[ts, id]` of the
        last event that came whole. What is wrong with the order is raised at once, what fails later while it is read.
        """
        asked = {"format": format, "fields": None if fields is None else ",".join(fields),
                 "after": None if after is None else ",".join(map(_text, after)), **_ends(time_range),
                 **_chosen(filters or {})}  # fmt: skip
        return Stream(self._reach("GET", "reports/events", file=True, params=given(**asked)))


def _job(told: dict[str, Any]) -> ExportJob:
    from gnomon.export.jobs import ExportJob

    return msgspec.convert({**told, "state": told["status"]}, ExportJob)


@contextmanager
def _of_a_job() -> Iterator[None]:
    """Over HTTP nothing says that it is a job which is not there."""
    try:
        yield
    except GnomonError as error:
        if error.code != "not-found":
            raise
        raise UnknownName("there is no such export", remedy="Its file may have expired: export it again.",
                          code="no-such-export") from None  # fmt: skip


def _ends(time_range: Any) -> dict[str, str]:
    found = range_of(time_range)
    if found == "all":
        return {}
    if isinstance(found, Mapping):
        found = [found.get("start"), found.get("end")]
    if isinstance(found, str) or len(found) != 2 or None in found:
        raise _more("a range by name")
    return dict(zip(("start", "end"), map(_text, found), strict=True))


def _chosen(filters: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(filters, Mapping) or not filters.keys() <= {"type", "user_id"}:
        raise _more("a filter of another kind")
    return filters


def _text(moment: Any) -> str:
    return moment if isinstance(moment, str) else str(moment.isoformat())


def _more(what: str) -> InvalidValue:
    return InvalidValue(f"{what} cannot be streamed over HTTP", remedy="Order a file with export_analytics().",
                        code="bad-query")  # fmt: skip
