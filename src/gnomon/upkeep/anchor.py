"""What stands outside the table of the audit: the key that authenticates everything, and the anchor.

The anchor says where the chain of entries begins and ends. It is one block of 512 bytes, overwritten in place by one
write, so a crash leaves the old or the new one (docs/decisions/0011). Before entries are committed it already names
the last of them as pending; so after a crash the table may hold what was pending, and never less than the anchor says.
It is synchronised to disk now and then only: what a power cut took from it is known by the boot that it names.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gnomon.errors import StoreDamaged, StoreUnavailable
from gnomon.files import sync_folder

BLOCK_BYTES = 512
GENESIS = bytes(32)
KEY_BYTES = 32
_MAGIC = "gnomon-audit-anchor-1"
#: Entries after which the anchor is synchronised to disk, so the most that it may be behind after a power cut.
MOST_BEHIND = 64


@cache
def boot() -> str:
    """What names the present run of the operating system, or `-` where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip().replace("-", "")[:32] or "-"
    except (OSError, ValueError):
        return "-"


class Key:
    """The secret of one audit. Each use has its own domain, so that none can stand in for another."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _mac(self, domain: bytes, content: bytes, size: int = 32) -> bytes:
        return hashlib.blake2b(content, key=self._secret, digest_size=size, person=domain).digest()

    def entry(self, previous: bytes, content: bytes) -> bytes:
        """The hash of an entry: of all its fields and of the entry before it."""
        return self._mac(b"gnomon-entry", previous + content)

    def anchor(self, content: str) -> str:
        """The seal of an anchor, in hexadecimal."""
        return self._mac(b"gnomon-anchor", content.encode()).hex()

    def person(self, project: str, name: str) -> str:
        """The digest that stands for a person or principal within a project: 32 hexadecimal digits."""
        return self._mac(b"gnomon-person", f"{len(project)}:{project}{name}".encode(), 16).hex()


def read_key(path: Path) -> Key | None:
    """The key in a file, or None when there is no file. Raises `StoreDamaged` when it holds none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise broken("the key of the audit is not a key")
    return Key(secret)


def make_key(path: Path, *, durable: bool) -> Key:
    """A new key in a new file that only its owner may read."""
    secret = secrets.token_bytes(KEY_BYTES)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, secret.hex().encode() + b"\n")
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
    beside.rename(path)
    if durable:
        sync_folder(path.parent)
    return Key(secret)


def read_block(path: Path, seconds: float, then: Callable[[], object]) -> bytes | None:
    """The anchor's content, None where there is none; `then` runs while the lock is still held. Writes nothing.

    Raises `StoreUnavailable` when the lock cannot be had in time.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        then()
        return None
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise _held() from None
                time.sleep(0.001)
        then()
        return os.pread(file, BLOCK_BYTES + 1, 0)
    finally:
        os.close(file)


def _held() -> StoreUnavailable:
    return StoreUnavailable("another process holds the audit", code="audit-unavailable",
                            remedy="Try it again; if it lasts, look for a process that is stopped.")  # fmt: skip


def broken(what: str) -> StoreDamaged:
    """The error for files of the audit that do not belong together."""
    remedy = (
        "Run `gnomon audit verify`; to begin anew, keep the old files of the audit elsewhere, all of them together."
    )
    return StoreDamaged(what, remedy=remedy, code="audit-broken")


class Anchor(NamedTuple):
    """Where the chain begins (behind `base`, the last entry that was pruned) and ends (with `last`).

    `broken` is the first number at which an append met a table that did not fit; it never goes away again.
    """

    base: int = 0
    base_hash: bytes = GENESIS
    last: int = 0
    head: bytes = GENESIS
    pending: int = 0
    pending_hash: bytes = GENESIS
    broken: int = 0
    boot: str = "-"  #: of the machine when it was written

    def sealed(self, key: Key) -> bytes:
        """The block that is written, ASCII with a line's end."""
        content = (f"{_MAGIC} {self.base} {self.base_hash.hex()} {self.last} {self.head.hex()} "
                   f"{self.pending} {self.pending_hash.hex()} {self.broken} {self.boot}")  # fmt: skip
        return f"{content} {key.anchor(content)}".ljust(BLOCK_BYTES - 1).encode() + b"\n"

    @classmethod
    def unsealed(cls, block: bytes, key: Key) -> Anchor | None:
        """The anchor of a block, or None if the key did not seal exactly these bytes."""
        words = block.decode("ascii", "replace").split()
        try:
            base, base_hash, last, head, pending, pending_hash, wrong, run = words[1:9]
            found = cls(int(base), bytes.fromhex(base_hash), int(last), bytes.fromhex(head), int(pending),
                        bytes.fromhex(pending_hash), int(wrong), run)  # fmt: skip
        except ValueError:
            return None
        return found if hmac.compare_digest(found.sealed(key), block) else None

    def met(self, number: int, hash: bytes) -> Anchor:
        """The anchor in the light of the table's last entry; `broken` where that is none which a crash explains."""
        if (number, hash) == (self.last, self.head):
            return self
        if number > self.last and ((number, hash) == (self.pending, self.pending_hash) or self._was_cut_off(number)):
            return self._replace(last=number, head=hash)
        return self._replace(broken=self.broken or min(number, self.last) + 1)

    def _was_cut_off(self, number: int) -> bool:
        """Whether the machine has been started anew, and the anchor is behind by no more than that may cost."""
        return self.boot not in ("-", boot()) and number - max(self.last, self.pending) <= MOST_BEHIND

    def coming(self, number: int, hash: bytes) -> tuple[Anchor, bool]:
        """The anchor while entries up to `number` are being committed, and whether it has to be synchronised."""
        sync = (
            self.boot != boot()
            or self.boot == "-"
            or self.broken > 0
            or number // MOST_BEHIND != self.last // MOST_BEHIND
        )
        return self._replace(pending=number, pending_hash=hash, boot=boot()), sync


def claims_entries(block: bytes) -> bool:
    """Whether an anchor speaks of entries, as far as that can be seen without its key."""
    words = block.decode("ascii", "replace").split()
    return bool(words) and words[3:4] != ["0"]


class AnchorFile:
    """The file of the anchor; its lock keeps entry and anchor together among threads of all processes."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self._name = str(path)
        self._durable = durable
        self._file: int | None = None

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """Hold the lock. Raises `StoreUnavailable` when it cannot be had in time, as its holder may be stopped."""
        until = time.monotonic() + seconds
        wait = 0.000_1
        while not self._taken():
            if time.monotonic() > until:
                raise _held()
            time.sleep(wait)
            wait = min(0.005, wait * 2)
        try:
            yield
        finally:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _taken(self) -> bool:
        """Whether the lock is held now, on the file that has the name now."""
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            if os.path.samestat(os.fstat(self._file), os.stat(self._name)):  # noqa: PTH116  a third of the time
                return True
        except FileNotFoundError:
            pass
        self.close()  # the file was replaced
        return False

    def read(self) -> bytes:
        """The whole content; more or less than one block is no anchor. The lock is held."""
        assert self._file is not None
        return os.pread(self._file, BLOCK_BYTES + 1, 0)

    def write(self, block: bytes, *, sync: bool) -> None:
        """Overwrite the block; with `sync` it survives a power cut. The lock is held."""
        assert self._file is not None
        if os.pwrite(self._file, block, 0) != len(block):
            raise OSError(28, "the anchor was cut short")
        if sync and self._durable:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
