"""PostgreSQL's errors in our words. Its messages may quote data or a password, so they stay in the chained exception.

What a batch is to blame for is told from what the database is: only the first may cost the batch its place.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from gnomon.errors import GnomonError, InvalidValue, StoreDamaged, StoreUnavailable

REFUSED = "store-refused"
#: What another try may well get done: two transactions met, and one of them had to give way.
MET = (errors.SerializationFailure, errors.DeadlockDetected)
#: What a `careful` transaction computes, see `opening.begin`.
BEYOND = errors.NumericValueOutOfRange
#: Texts of a login that fails, as libpq gives no codes for them.
_LOGIN = (
    "password authentication failed",
    "no password supplied",
    "authentication failed",
    "is not permitted to log in",
)
_CROWDED = ("too many clients", "remaining connection slots are reserved", "too many connections")
_MISSING = ("does not exist",)
#: What is not to be had without other settings; a handshake that was cut short is a server that goes away.
_HOST = re.compile("no pg_hba.conf entry|certificate|not support SSL|SSL[^\n]* required|unknown ca|protocol version")


def translated(error: Exception, *, writing: bool = False) -> GnomonError:
    """An error of the driver in our words. While `writing`, what is not the fault of a value is `StoreUnavailable`."""
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        what = "an index" if isinstance(error, errors.IndexCorrupted) else "a table"
        return StoreDamaged(
            f"the database cannot read {what} of Gnomon's; its log says which",
            remedy="Copy its files; then REINDEX it, fail over to a standby or restore a backup: see docs/runbook.md.",
        )
    if isinstance(error, errors.DiskFull):
        return StoreUnavailable("the disk of the database is full", remedy="Free space there; it goes on by itself.")
    if isinstance(error, errors.InsufficientPrivilege):
        return StoreUnavailable(
            "the database user lacks a right on Gnomon's schema", code="store-rights",
            remedy="Give it the rights that docs/postgresql.md lists.",
        )  # fmt: skip
    # A server in recovery does not even begin a transaction that may write; nothing else of ours is unknown to it.
    if isinstance(error, errors.ReadOnlySqlTransaction) or (writing and isinstance(error, errors.FeatureNotSupported)):
        return StoreUnavailable(
            "the database takes no changes (a standby, or a read-only one)", code="store-read-only",
            remedy="Give the address of the primary, for example with target_session_attrs=read-write.",
        )  # fmt: skip
    if isinstance(error, errors.LockNotAvailable):
        return StoreUnavailable(
            "another process is changing the database for longer than this one waits",
            remedy="It is tried again by itself; see pg_stat_activity for who holds it up.",
        )
    if isinstance(error, errors.InvalidRegularExpression):
        return InvalidValue(
            "the pattern is not a valid regular expression", remedy="Use RE2 syntax.", code="bad-pattern"
        )
    of_a_value = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    of_a_statement = isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError) and not writing
    if of_a_value or of_a_statement:
        return GnomonError(f"the store refused a statement ({type(error).__name__})", code=REFUSED)
    return StoreUnavailable(
        f"the database failed or cannot be reached ({type(error).__name__})",
        remedy="Check that it runs and can be reached; it is tried again by itself.",
    )


def of_connecting(error: psycopg.Error) -> StoreUnavailable:
    """Why no connection came about. Whether it goes away by waiting says `errors.PASSING`."""
    text = str(error)
    if any(sign in text for sign in _LOGIN):
        return StoreUnavailable(
            "the database refuses the user or the password", code="store-login",
            remedy="Check the user and password in the store's URL.",
        )  # fmt: skip
    if "FATAL" in text and any(sign in text for sign in _MISSING):
        return StoreUnavailable(
            "the database or the user of the store's URL does not exist", code="store-login",
            remedy="Create it, see docs/postgresql.md, or correct the URL.",
        )  # fmt: skip
    if _HOST.search(text):
        return StoreUnavailable(
            "the database does not let this host in as it asks", code="store-login",
            remedy="See pg_hba.conf of the database, and sslmode in the store's URL.",
        )  # fmt: skip
    if any(sign in text for sign in _CROWDED):
        return StoreUnavailable(
            "the database has no connections left",
            remedy="See pg_stat_activity for who has them; raise max_connections.",
        )
    return StoreUnavailable(
        "the database cannot be reached", remedy="Check that it runs and can be reached; it is tried again by itself."
    )
