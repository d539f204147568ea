"""DuckDB's errors in our words, and the mark beside a file in which damage was seen."""

from __future__ import annotations

from pathlib import Path

import duckdb

from gnomon.errors import GnomonError, InvalidValue, StoreBusy, StoreDamaged, StoreUnavailable
from gnomon.store import SUSPECT

REOPEN = "Close the engine and open it again: it sets the file aside and carries over what can be read."


def suspect_mark(path: str) -> Path:
    """The file whose presence says that a store file is damaged."""
    return Path(path + SUSPECT)


#: What RE2 says of a pattern it does not take (kErrorStrings in re2/regexp.cc, and re2/re2.cc).
_BAD_PATTERN = (
    "invalid escape sequence", "invalid character class", "missing ]", "missing )", "unexpected )", "trailing",
    "no argument for repetition operator", "invalid repetition size", "bad repetition operator",
    "invalid perl operator", "invalid UTF-8", "invalid named capture group", "pattern too large",
)  # fmt: skip


_DAMAGE = (
    "Corrupt", "not a valid DuckDB", "checksum", "Failure while replaying WAL", "Serialization Error",
    "Could not read enough bytes", "Could not read all data", "reading past end of file",
)  # fmt: skip
#: A failed commit (TransactionException) is a full or broken disk: there is one writer, so it cannot be a conflict.
_UNAVAILABLE = (
    duckdb.FatalException, duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InternalException,
    duckdb.TransactionException,
)  # fmt: skip


def translated(error: duckdb.Error) -> GnomonError:
    """DuckDB's errors in our words. Its messages may quote data, so they stay in the chained exception only."""
    text = str(error)
    if "Could not set lock on file" in text or "Conflicting lock" in text:
        return StoreBusy(
            "another process owns this store",
            remedy="Ask in the process that opened it first, ask through `gnomon serve`, or stop that process.",
        )
    # The texts of these may quote any value, so they say nothing of the file.
    of_a_value = isinstance(error, duckdb.DataError | duckdb.BinderException | duckdb.InvalidInputException)
    if not of_a_value and any(sign in text for sign in _DAMAGE):
        return StoreDamaged("the store file is damaged", remedy=REOPEN)
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(
            f"the store failed ({type(error).__name__})", remedy="See `gnomon doctor`; check disk and memory."
        )
    if isinstance(error, duckdb.ConnectionException):
        return StoreUnavailable("the store is closed", remedy="Open the engine again.")
    if isinstance(error, duckdb.InvalidInputException) and any(sign in text for sign in _BAD_PATTERN):
        return InvalidValue(
            "the pattern is not a valid regular expression", remedy="Use RE2 syntax.", code="bad-pattern"
        )
    return GnomonError(f"the store refused a statement ({type(error).__name__})", code="store-refused")
