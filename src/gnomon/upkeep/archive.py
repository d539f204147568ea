"""The one file of a backup: a packed tar, the manifest first in it, and a digest of every byte at its end.

Whatever bit of the file changes, or wherever it is cut, the digest does not fit; nothing of an archive is used before
that is known.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import msgspec

from gnomon.errors import InvalidValue
from gnomon.upkeep.encryption import Keys, damaged, is_encrypted, key_missing
from gnomon.upkeep.packing import Codec, codec_of

FORMAT = 1
MANIFEST = "manifest.json"
STORE, KEPT, AUDIT = "store.duckdb", "kept.json", "audit"  #: names of members; those of the audit begin with it
CHUNK = 1 << 20
_MOST_MANIFEST = 16 * 1024**2


@dataclass(frozen=True)
class Member:
    """One file of the archive."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself. `tables` are rows and content hash; the hash depends on `engine`."""

    store: str
    created_at: str
    gnomon: str
    engine: str
    schema: int
    journal: dict[str, Any]
    tables: dict[str, tuple[int, str]]
    members: dict[str, Member] = field(default_factory=dict)
    format: int = FORMAT


def pack(manifest: Manifest, files: Mapping[str, Path], plain: Path, codec: Codec) -> None:
    """Write the archive, not encrypted. Raises `OSError`."""
    manifest = replace(manifest, members={name: _member(file) for name, file in files.items()})
    head = msgspec.json.encode(manifest)
    with plain.open("wb") as raw:
        hashed = _Hashed(raw)
        with codec.write(hashed) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
            tar.addfile(_entry(MANIFEST, len(head)), BytesIO(head))
            for name, file in files.items():
                with file.open("rb") as content:
                    tar.addfile(_entry(name, manifest.members[name].bytes), content)
        raw.write(codec.last(hashed.digest()))


def unpack(file: Path, folder: Path, keys: Keys | None) -> Manifest:
    """Check an archive and lay its members into a folder. Raises what the named errors of docs/backup.md say."""
    plain = file
    if is_encrypted(file):
        if keys is None:
            raise key_missing()
        plain = folder / "opened"
        keys.decrypt(file, plain)
    codec = codec_of(plain)
    if codec is None:
        raise damaged()
    _check_digest(plain, codec)
    faults: tuple[type[Exception], ...] = (tarfile.TarError, zlib.error, *codec.faults)
    try:
        with codec.read(plain) as packed, closing(tarfile.open(fileobj=packed, mode="r|")) as tar:
            manifest = _read_manifest(tar)
            found = {member.name: _extract(tar, member, folder, manifest) for member in iter(tar.next, None)}
    except faults as error:
        raise damaged() from error
    if found != manifest.members:
        raise damaged("the archive does not hold what its manifest names")
    if plain != file:
        plain.unlink()
    return manifest


def digest_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class _Hashed:
    """A file to write to that hashes what goes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _check_digest(plain: Path, codec: Codec) -> None:
    size = plain.stat().st_size - len(codec.last("0" * 64))
    if size < 0:
        raise damaged()
    found = hashlib.sha256()
    with plain.open("rb") as content:
        for start in range(0, size, CHUNK):
            found.update(content.read(min(CHUNK, size - start)))
        if content.read() != codec.last(found.hexdigest()):
            raise damaged()


def _read_manifest(tar: tarfile.TarFile) -> Manifest:
    entry = tar.next()
    content = None if entry is None or entry.name != MANIFEST else tar.extractfile(entry)
    if content is None:
        raise damaged("the archive has no manifest")
    try:
        words = content.read(_MOST_MANIFEST)
        found = msgspec.json.decode(words, type=dict[str, Any])
        if found.get("format") != FORMAT:
            raise newer("the archive has a format that this version does not know")
        return msgspec.json.decode(words, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged("the manifest of the archive cannot be read") from error


def newer(what: str) -> InvalidValue:
    """The error for a backup that a newer version made."""
    return InvalidValue(what, remedy="Upgrade gnomon, and duckdb with it.", code="newer-backup")


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path, manifest: Manifest) -> Member:
    content = tar.extractfile(entry) if entry.name in manifest.members and "/" not in entry.name else None
    if content is None:
        raise damaged("the archive holds something that its manifest does not name")
    hashed = hashlib.sha256()
    with (folder / entry.name).open("wb") as file:
        while part := content.read(CHUNK):
            hashed.update(part)
            file.write(part)
    return Member(entry.size, hashed.hexdigest())


def _member(file: Path) -> Member:
    return Member(file.stat().st_size, digest_of(file))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry
