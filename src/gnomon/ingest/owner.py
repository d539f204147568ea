"""Who owns an embedded store: the holder of a lock file beside it. Only the owner drains, checkpoints and repairs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class OwnerLock:
    """An advisory lock on `path`, held until `release()` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; True if this process holds it now."""
        if self._file is not None:
            return True
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        os.truncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        self._file = file
        return True

    def holder(self) -> int | None:
        """The process id written by the last holder, or None."""
        try:
            return int(self.path.read_text() or 0) or None
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Give the lock back. In a forked child this only closes the child's copy; the parent keeps the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
