"""Every exception Gnomon raises on purpose: one tree, each with a stable code and a remedy.

A message says what is wrong, the remedy what to do about it. Neither ever repeats a value that a
stranger sent, so an error may be shown or logged as it is. `status` is the HTTP status that fits.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Codes of what passes by waiting: a server that is away, crowded, slow, read-only (a standby before it is promoted) or
#: lacks a replica, and a number that another process decided. Whoever can wait goes on meanwhile.
PASSING = frozenset(
    ("store-unavailable", "store-crowded", "store-slow", "store-read-only", "store-moved", "cluster-degraded")
)


class GnomonError(Exception):
    """Root of the tree. `code` is stable and machine-readable, `remedy` is one sentence for a person."""

    code = "error"
    status = 500

    def __init__(self, message: str, *, remedy: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.unquoted = message  #: without the name that was given, for callers over a network
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return (
            f"{self.message} ({self.code}). {self.remedy}".rstrip() if self.remedy else f"{self.message} ({self.code})"
        )


class InvalidValue(GnomonError, ValueError):
    """An argument, setting, range, filter or event that breaks a rule; nothing was done."""

    code = "invalid-value"
    status = 422


class UnknownName(InvalidValue):
    """A metric, dimension, type or setting that does not exist; the remedy names the nearest that does."""

    code = "unknown-name"


class RangeTooLarge(InvalidValue):
    """A question with more rows or buckets than one answer may hold."""

    code = "range-too-large"


class Forbidden(GnomonError):
    """The caller lacks the scope that this call needs; nothing was done, and the refusal is in the audit."""

    code = "forbidden"
    status = 403


class StoreBusy(GnomonError):
    """Another process owns the store; this one can record, but not ask."""

    code = "store-busy"
    status = 409


class StoreDamaged(GnomonError):
    """A file of the store or the journal does not read back as it was written."""

    code = "store-damaged"


class StoreUnavailable(GnomonError):
    """The store cannot take or answer anything right now; what was recorded waits in the journal."""

    code = "store-unavailable"
    status = 503


class DiskFull(GnomonError):
    """The journal could not be extended; the events stay in memory and are tried again."""

    code = "disk-full"
    status = 507


class QueryTimeout(GnomonError):
    """A question ran longer than the statement time-out and was interrupted."""

    code = "query-timeout"
    status = 503


class EngineClosed(GnomonError):
    """The engine was used after `close()`."""

    code = "engine-closed"
    status = 503


class MissingExtra(GnomonError, ImportError):
    """An optional package is needed for this call."""

    code = "missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed",
            remedy=f'Install gnomon[{extra}], from a checkout with: pip install ".[{extra}]".',
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name` (Ratcliff-Obershelp similarity of at least 0.6), or None."""
    import difflib  # deferred: opening an engine needs no names to compare

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:60])


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownName:
    """An `UnknownName` for a `kind` of thing, with the nearest valid name as its remedy.

    The unknown name itself is quoted only up to 60 printable characters, as it may come from a stranger.
    """
    names = sorted(map(_printable, known))
    shown = _printable(name) if isinstance(name, str) else f"of type {type(name).__name__}"
    hit = nearest(shown, names)
    remedy = f"Did you mean {hit!r}?" if hit else "Known: " + ", ".join(names[:40]) + "."
    error = UnknownName(f"unknown {kind} {shown!r}", remedy=remedy)
    error.unquoted = f"unknown {kind}"
    return error
