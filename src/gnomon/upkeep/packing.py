"""How an archive is compressed: with zstd where it is there, else with gzip. Both are read by `tar` everywhere.

Each ends with a digest in a part that decompresses to nothing, so that the standard programs skip it.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gnomon.errors import MissingExtra

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Codec:
    """`write` packs into an open file and `read` unpacks one; `last` is the end that says the digest of all before.

    `faults` are what reading damaged data raises.
    """

    ending: str
    magic: bytes
    write: Callable[[Any], Any]
    read: Callable[[Path], Any]
    last: Callable[[str], bytes]
    faults: tuple[type[Exception], ...]


def _gzip_last(digest: str) -> bytes:
    """An empty member whose comment is the digest (RFC 1952: FCOMMENT is bit 4; 3, 0 is an empty block)."""
    return b"\x1f\x8b\x08\x10\0\0\0\0\0\xffsha256=" + digest.encode() + b"\0\x03\0" + bytes(8)


def _zstd_last(digest: str) -> bytes:
    """A skippable frame (RFC 8878, 3.1.2)."""
    words = b"sha256=" + digest.encode()
    return struct.pack("<II", 0x184D2A50, len(words)) + words


def _gzip_writer(file: IO[bytes]) -> Any:
    return gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0)


GZIP = Codec(".gz", b"\x1f\x8b", _gzip_writer, gzip.open, _gzip_last, (EOFError, gzip.BadGzipFile))


def best() -> Codec:
    """zstd at level 1 where it is installed: an eighth of gzip's time (docs/decisions/0012)."""
    zstd = _zstd()
    return GZIP if zstd is None else _with(zstd)


def codec_of(plain: Path) -> Codec | None:
    """The codec by which a file begins; None for any other file. Raises `MissingExtra`."""
    with plain.open("rb") as file:
        start = file.read(4)
    if start != _ZSTD_MAGIC:
        return GZIP if start.startswith(GZIP.magic) else None
    zstd = _zstd()
    if zstd is None:
        raise MissingExtra("backports.zstd", "backup")
    return _with(zstd)


def _with(zstd: Any) -> Codec:
    return Codec(
        ".zst", _ZSTD_MAGIC, lambda file: zstd.ZstdFile(file, "wb", level=1), lambda path: zstd.ZstdFile(path, "rb"),
        _zstd_last, (EOFError, zstd.ZstdError),
    )  # fmt: skip


def _zstd() -> Any:
    """The module of the standard library (Python 3.14), or its backport, or None."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            return None
    return zstd
