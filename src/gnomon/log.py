"""Log lines of the command line: one line an event, as text or JSON. A library never sets up its host's logging.

Names in a line may come from strangers, so whatever is not printable is escaped: nothing can begin a new line or move
a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from gnomon.config import Settings
from gnomon.errors import InvalidValue

#: What every JSON line has, besides timestamp, level and module; null where it does not apply.
FIELDS = ("project", "operation", "duration_ms", "status", "error")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON: timestamp, level, module, `FIELDS`, message, context. Only ASCII is written."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        extra = {name: value for name, value in vars(record).items() if name not in _OWN}
        line: dict[str, Any] = {
            "timestamp": _time_of(record), "level": record.levelname, "module": record.name,
            **{name: extra.pop(name, None) for name in FIELDS}, "message": record.getMessage(),
        }  # fmt: skip
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = line["error"] or record.exc_info[0].__name__
            extra["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**line, "context": extra}, default=str, skipkeys=True)


class TextLines(logging.Formatter):
    """A record as one line of text: time, level, logger, message, then `name=value` for whatever else it carries."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        extra = {name: value for name, value in vars(record).items() if name not in _OWN and value is not None}
        told = [_time_of(record), record.levelname, record.name, record.getMessage()]
        told += [f"{name}={value}" for name, value in extra.items()]
        if record.exc_info:
            told.append(self.formatException(record.exc_info))
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(told))


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


@contextmanager
def logging_as(settings: Settings) -> Iterator[None]:
    """Write what Gnomon logs to standard error, as `log_level` and `log_format` say; for the command line only.

    Raises `InvalidValue` (bad-config) for a level that `logging` does not know.
    """
    level = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if level is None:
        raise InvalidValue("log_level is no level of logging", code="bad-config",
                           remedy="Give DEBUG, INFO, WARNING, ERROR or CRITICAL.")  # fmt: skip
    ours = logging.getLogger("gnomon")
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    before = ours.level, ours.propagate
    ours.addHandler(out)
    ours.setLevel(level)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(out)
        ours.setLevel(before[0])
        ours.propagate = before[1]
