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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from gnomon.errors import DiskFull, InvalidValue, StoreUnavailable
from gnomon.ingest.journal import TARGETS, Journal

PARTIAL = ".partial"
_NAME = re.compile(r"gnomon-(?P<store>.+)-(?P<at>\d{8}T\d{6}\.\d{6}Z)\.tar\.(gz|zst)(\.age)?")
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
        private = parts.password is not None
    except ValueError as error:
        raise bad_target("the backup target is no URL") from error
    if private:
        raise bad_target("the backup target holds a password", "Leave it to the environment of the client.")
    if "://" not in url or parts.scheme == "file":
        return Folder(Path(url if "://" not in url else parts.path), store)
    if parts.scheme in ("s3", "gs", "az"):
        from gnomon.upkeep.buckets import Bucket

        return Bucket(url, store)
    if parts.scheme in ("git+ssh", "git+https", "git+file"):
        from gnomon.upkeep.repositories import Repository

        return Repository(url, store, scratch)
    if parts.scheme == "kaggle":
        from gnomon.upkeep.datasets import Dataset

        return Dataset(parts.netloc + parts.path, store, scratch)
    raise bad_target("the backup target has a scheme that this version does not know")


def remember(journal: Journal, url: str) -> None:
    """Remember that a backup went to a target."""
    plain = without_secrets(url)
    key = TARGETS + hashlib.sha256(plain.encode()).hexdigest()[:16]
    if journal.kept(key) != plain:
        journal.keep(key, plain)


def without_secrets(url: str) -> str:
    """A target as it may be kept and told: an absolute path, or a URL without what could be a token."""
    parts = urlsplit(url)
    if "://" not in url or parts.scheme == "file":
        return str(Path(url if "://" not in url else parts.path).absolute())
    if parts.scheme == "git+https":  # a token may stand where a user's name does
        return f"git+https://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return url


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
