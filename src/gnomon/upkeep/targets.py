"""Where backups are kept: what a place can do (`Target`), `open_target(url)`, and the first of them, a folder.

An archive stands at its place under its final name only once it was verified. What a cut-short run left there never
has such a name, and is removed by the next one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from gnomon.config import Settings
from gnomon.errors import DiskFull, InvalidValue, StoreUnavailable
from gnomon.ingest.journal import TARGETS, Journal

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold

PARTIAL = ".partial"
_NAME = re.compile(r"gnomon-(?P<store>.+)-(?P<at>\d{8}T\d{6}\.\d{6}Z)\.tar\.(gz|zst)(\.age)?")
_BUCKETS = ("s3", "gs", "az")
_ASKED = {"endpoint", "region"}  #: parameters of buckets
_OWNED = re.compile(r"(?P<by>[0-9a-f]{32}):(?P<plain>.*)", re.DOTALL)  #: a place that only hosts of a journal reach
_STAMP = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class KeptBackup:
    """A good backup at a target: where it is, its size, when it was made."""

    path: str
    name: str
    bytes: int
    created_at: datetime


class Target(Protocol):
    """A place for archives of one store. What goes wrong is raised as `StoreUnavailable` or `DiskFull`."""

    #: Whether a copy there may be read by others than the owner of the data, so that it must be encrypted.
    published: bool

    def place(self) -> Path | None:
        """The folder in which an archive is best written, so that `put` need not copy it; None: anywhere."""

    def put(self, file: Path, name: str) -> str:
        """Take a verified archive in under its final name; returns its address. The file may be moved."""

    def entries(self) -> list[KeptBackup]:
        """The good backups, oldest first."""

    def get(self, name: str, file: Path) -> None:
        """Copy an archive to `file`. Raises `InvalidValue` with code `no-such-file`."""

    def remove(self, name: str) -> None:
        """Remove a backup."""

    def clean(self) -> None:
        """Remove what runs that were cut short left there."""


def open_target(url: str, store: str, scratch: Path) -> Target:
    """The target that `url` names: a folder, s3://, gs://, az://, git+ssh://, git+https://, git+file:// or kaggle://.

    `store` is the name that archives carry; `scratch` a folder to work in. Raises `InvalidValue` (`bad-target`),
    `MissingExtra`.
    """
    try:
        parts = urlsplit(url)
        _check(parts, url)
    except ValueError as error:
        raise bad_target("the backup target is no URL") from error
    folder = folder_of(url)
    if folder is not None:
        return Folder(folder, store)
    if parts.scheme in _BUCKETS:
        from gnomon.upkeep.buckets import Bucket

        return Bucket(url, store)
    if parts.scheme in ("git+ssh", "git+https", "git+file"):
        from gnomon.upkeep.repositories import Repository

        return Repository(url, store, scratch)
    if parts.scheme == "kaggle":
        from gnomon.upkeep.datasets import Dataset

        return Dataset(parts.netloc + parts.path, store, scratch)
    raise bad_target("the backup target has a scheme that this version does not know")


def target_url(hold: Hold, url: str | None, settings: Settings) -> str:
    """Where backups of this store go. Raises `InvalidValue` (`bad-target`) for a store in memory without a target."""
    chosen = url or settings.backup_target
    if not chosen and hold.in_memory:
        raise bad_target("a store in memory has no folder for backups", "Give a target.")
    return chosen or str(Path(os.path.realpath(settings.data_dir or hold.file.parent)) / "backups")


def folder_of(url: str) -> Path | None:
    """The folder that `url` names; None for other targets, and for what is no URL."""
    if "://" not in url:
        return Path(url)
    with suppress(ValueError):
        parts = urlsplit(url)
        return Path(parts.path) if parts.scheme == "file" else None
    return None


def _check(parts: SplitResult, url: str) -> None:
    """Raises `InvalidValue` for what may be a secret, or is for nobody; `ValueError` for what is no URL."""
    asked = parse_qsl(parts.query, keep_blank_values=True) if "://" in url else []
    if parts.password is not None or any(name == "endpoint" and "@" in urlsplit(end).netloc for name, end in asked):
        raise bad_target("the backup target holds a password", "Leave it to the environment of the client.")
    if {name for name, _ in asked} - (_ASKED if parts.scheme in _BUCKETS else set()):
        raise bad_target("the backup target has a parameter that nobody knows")


def remember(journal: Journal, url: str) -> None:
    """Remember that a backup went to a target; one of this host by the journal, where a store has several."""
    plain = without_secrets(url)
    value = f"{journal.id}:{plain}" if journal.share is not None and _local(plain) else plain
    key = TARGETS + hashlib.sha256(value.encode()).hexdigest()[:16]
    if journal.kept(key) != value:
        journal.keep(key, value)


def remembered(journal: Journal) -> tuple[set[str], set[str]]:
    """The targets to which backups went: those that can be looked at from here, and folders of other hosts."""
    here: set[str] = set()
    elsewhere: set[str] = set()
    for key, value in journal.all_kept().items():
        if key.startswith(TARGETS):
            found = _OWNED.fullmatch(value)
            by, plain = (found["by"], found["plain"]) if found else (None, value)
            other = journal.share is not None and by != journal.id and _local(plain)
            (elsewhere if other else here).add(without_secrets(plain))
    return here, elsewhere


def without_secrets(url: str) -> str:
    """A target as it may be kept and told: an absolute path, or of a URL only the parts that are no secret.

    Raises `ValueError` for what is no URL.
    """
    parts = urlsplit(url)
    if "://" not in url or parts.scheme == "file":
        return str(Path(url if "://" not in url else parts.path).absolute())
    where = _host(parts)
    if parts.scheme == "git+ssh" and parts.username == "git":
        where = f"git@{where}"
    asked = dict(parse_qsl(parts.query)) if parts.scheme in _BUCKETS else {}
    told: dict[str, str] = {name: asked[name] for name in sorted(_ASKED) if name in asked}
    if "endpoint" in told:
        end = urlsplit(told["endpoint"])
        told["endpoint"] = f"{end.scheme}://{_host(end)}{end.path}"
    return f"{parts.scheme}://{where}{parts.path}" + ("?" + urlencode(told, safe=":/") if told else "")


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _local(plain: str) -> bool:
    return "://" not in plain or plain.startswith("git+file:")


def archive_name(store: str, at: datetime, ending: str) -> str:
    """The final name of an archive."""
    return f"gnomon-{store}-{at.astimezone(UTC).strftime(_STAMP)}.tar{ending}"


def store_label(file: Path) -> str:
    """The store's name as archives carry it."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", file.stem)[:100] or "store"


def kept_from(name: str, size: int, address: str, store: str) -> KeptBackup | None:
    """The backup of `store` that a file of this name is; None when it is something else."""
    found = _NAME.fullmatch(name)
    if found is None or found["store"] != store:
        return None
    at = datetime.strptime(found["at"], _STAMP).replace(tzinfo=UTC)
    return KeptBackup(address, name, size, at)


def in_order(found: list[KeptBackup | None]) -> list[KeptBackup]:
    """Backups, oldest first."""
    return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.created_at)


def bad_target(what: str, remedy: str = "Give a folder or a URL of docs/backup.md.") -> InvalidValue:
    """The error for a target that cannot be one."""
    return InvalidValue(what, remedy=remedy, code="bad-target")


def unavailable(what: str, remedy: str) -> StoreUnavailable:
    """The error for a target that does not take or give anything now."""
    return StoreUnavailable(what, remedy=remedy, code="target-unavailable")


def not_there() -> InvalidValue:
    """The error for an archive that is not where it should be."""
    return InvalidValue("there is no such backup", remedy="See `gnomon backup --list`.", code="no-such-file")


def failed(error: OSError, what: str = "the backup target") -> StoreUnavailable | DiskFull:
    """What a failing disk under `what` is in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"{what} is full", remedy="Free space there; nothing was kept of this run.", code="target-full")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return unavailable(f"{what} cannot be used ({name})", "Check that it exists and can be written.")


class Folder:
    """A folder of a file system; it is made when missing."""

    published = False

    def __init__(self, path: Path, store: str) -> None:
        self._path, self._store = path.absolute(), store

    def place(self) -> Path:
        """See `Target.place`."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(error) from error
        return self._path

    def put(self, file: Path, name: str) -> str:
        """See `Target.put`."""
        final = self._path / name
        try:
            with file.open("rb+") as content:
                os.fsync(content.fileno())
            file.rename(final)
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise failed(error) from error
        return str(final)

    def entries(self) -> list[KeptBackup]:
        """See `Target.entries`."""
        if not self._path.is_dir():
            return []
        files = list(self._path.iterdir())
        return in_order([kept_from(file.name, file.stat().st_size, str(file), self._store) for file in files])

    def get(self, name: str, file: Path) -> None:
        """See `Target.get`."""
        if not (self._path / name).is_file():
            raise not_there()
        try:
            shutil.copyfile(self._path / name, file)
        except OSError as error:
            raise failed(error, "the disk of the store") from error

    def remove(self, name: str) -> None:
        """See `Target.remove`."""
        (self._path / name).unlink(missing_ok=True)

    def clean(self) -> None:
        """See `Target.clean`."""
        for file in self._path.glob(f"gnomon-*{PARTIAL}") if self._path.is_dir() else ():
            if kept_from(file.name.removesuffix(PARTIAL), 0, "", self._store):
                file.unlink(missing_ok=True)
