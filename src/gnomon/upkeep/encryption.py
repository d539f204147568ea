"""Encryption of archives with age (https://age-encryption.org), through `pyrage`. The key is read from a file.

The file is an age identity file, as `age-keygen` writes it. With several keys in it the first one encrypts and all are
tried to decrypt, so that a new key goes on top. Nothing here is cryptography of our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnomon.errors import InvalidValue, MissingExtra, StoreDamaged

ENDING = ".age"
_FIRST_LINE = b"age-encryption.org/"


class Keys:
    """The keys of a file. Raises `InvalidValue` (`bad-backup-key`) for a file without any, `MissingExtra`."""

    def __init__(self, file: str) -> None:
        self._age = _pyrage()
        try:
            lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
            words = [line for line in lines if line and not line.startswith("#")]
            self._identities = [self._age.x25519.Identity.from_str(word) for word in words]
        except (OSError, UnicodeDecodeError, self._age.IdentityError) as error:
            raise _bad_key() from error
        if not self._identities:
            raise _bad_key()

    def encrypt(self, plain: Path, file: Path) -> None:
        """Encrypt one file into another. Raises `OSError`."""
        self._age.encrypt_file(str(plain), str(file), [self._identities[0].to_public()])

    def decrypt(self, file: Path, plain: Path) -> None:
        """Decrypt. Raises `InvalidValue` (`wrong-backup-key`), `StoreDamaged` (`backup-damaged`)."""
        try:
            self._age.decrypt_file(str(file), str(plain), self._identities)
        except self._age.DecryptError as error:
            if "No matching keys" in str(error):
                raise InvalidValue(
                    "no key of backup_key_file opens this archive",
                    remedy="Give the key that it was made with.", code="wrong-backup-key",
                ) from error  # fmt: skip
            raise damaged() from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise damaged() from error  # a part that does not pass its authentication


def is_encrypted(file: Path) -> bool:
    """Whether a file begins as age's do."""
    with file.open("rb") as start:
        return start.read(len(_FIRST_LINE)) == _FIRST_LINE


def damaged(what: str = "the archive is damaged, cut short or no backup") -> StoreDamaged:
    """The error for an archive that is not what was written."""
    return StoreDamaged(what, remedy="Take another backup: `gnomon backup --list`.", code="backup-damaged")


def key_missing() -> InvalidValue:
    """The error where a key is needed and none is set."""
    return InvalidValue(
        "this needs a key, and none is set",
        remedy="Set backup_key_file to an age identity file; see docs/backup.md.", code="no-backup-key",
    )  # fmt: skip


def _bad_key() -> InvalidValue:
    return InvalidValue(
        "backup_key_file is no readable age identity file",
        remedy="Make one with age-keygen; see docs/backup.md.", code="bad-backup-key",
    )  # fmt: skip


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError:
        raise MissingExtra("pyrage", "backup") from None
    return pyrage
