"""Backups in a git repository with LFS, through the programs `git` and `git-lfs`.

An archive counts once its commit is pushed: a push is all or nothing. Removing one removes it from the branch; what
the server keeps of its history is the server's. Others may read a repository, so archives there must be encrypted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from gnomon.errors import StoreUnavailable
from gnomon.upkeep.archive import digest_of
from gnomon.upkeep.targets import KeptBackup, failed, in_order, kept_from, not_there, unavailable

#: Who the commits are by.
_AUTHOR = ("-c", "user.name=Gnomon", "-c", "user.email=backup@localhost", "-c", "commit.gpgsign=false")
_POINTER = re.compile(rb"oid sha256:[0-9a-f]{64}\s+size (\d+)")
MOST_SECONDS = 3_600.0  #: for one command


class Repository:
    """`git+ssh://host/repository`, `git+https://...` or `git+file:///path`."""

    published = True

    def __init__(self, url: str, store: str, scratch: Path) -> None:
        self._url, self._store = url.rstrip("/"), store
        self._remote, self._tree = self._url.removeprefix("git+"), scratch / "repository"
        for program, words in (("git", ("git", "--version")), ("git-lfs", ("git", "lfs", "version"))):
            if shutil.which("git") is None or subprocess.run(words, capture_output=True).returncode:
                raise StoreUnavailable(
                    f"the program {program} is not installed", remedy=f"Install {program}.", code="missing-program"
                )

    def place(self) -> Path | None:
        """See `Target.place`."""
        return None

    def put(self, file: Path, name: str) -> str:
        """See `Target.put`."""
        self._clone()
        self._git("lfs", "track", "gnomon-*.tar.*")
        try:
            shutil.copyfile(file, self._tree / name)
        except OSError as error:
            raise failed(error, "the disk of the store") from error
        wanted = digest_of(file)
        self._push(f"backup: {name}", "add", ".gitattributes", name)
        copy = self._tree.with_name("read-back")
        self._clone(again=True)  # the one that pushed has the file itself
        self.get(name, copy)
        if digest_of(copy) != wanted:
            self.remove(name)
            raise unavailable("what was pushed reads back differently", "Try again; check the repository.")
        copy.unlink()
        return f"{self._url}/{name}"

    def entries(self) -> list[KeptBackup]:
        """See `Target.entries`."""
        self._clone()
        found = []
        for file in self._tree.iterdir():
            if kept_from(file.name, 0, "", self._store):
                pointer = _POINTER.search(file.read_bytes()[:1_000])
                size = int(pointer[1]) if pointer else file.stat().st_size  # the latter once it was fetched
                found.append(kept_from(file.name, size, f"{self._url}/{file.name}", self._store))
        return in_order(found)

    def get(self, name: str, file: Path) -> None:
        """See `Target.get`."""
        self._clone()
        if not (self._tree / name).is_file():
            raise not_there()
        self._git("lfs", "pull", "--include", name, "--exclude", "")
        shutil.copyfile(self._tree / name, file)

    def remove(self, name: str) -> None:
        """See `Target.remove`."""
        self._clone()
        self._push(f"backup: {name} is too old", "rm", "--quiet", name)

    def clean(self) -> None:
        """Nothing: what was not pushed is not there."""

    def _clone(self, *, again: bool = False) -> None:
        """Have a clone whose big files are not fetched yet."""
        if self._tree.exists() and not again:
            return
        shutil.rmtree(self._tree, ignore_errors=True)
        self._run("clone", "--quiet", "--depth", "1", "--no-checkout", "--", self._remote, str(self._tree))
        self._git("lfs", "install", "--local", "--skip-smudge")
        if self._git("ls-remote", "--heads", "origin"):
            self._git("checkout", "--quiet", "--force")

    def _push(self, message: str, *change: str) -> None:
        self._git(*change)
        self._git(*_AUTHOR, "commit", "--quiet", "--message", message)
        self._git("push", "--quiet", "origin", "HEAD")

    def _git(self, *words: str) -> str:
        return self._run("-C", str(self._tree), *words)

    def _run(self, *words: str) -> str:
        """Run git without a terminal to ask at. What it prints may hold addresses, so it is not repeated."""
        try:
            ended = subprocess.run(
                ("git", *words), stdin=subprocess.DEVNULL, capture_output=True, timeout=MOST_SECONDS,
                start_new_session=True, check=True,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            raise unavailable("the repository refused or failed", "Try `git clone` and `git lfs` by hand.") from error
        return ended.stdout.decode(errors="replace")
