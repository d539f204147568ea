"""How each file format is read: stored bytes, gzip or not, become log fields, CSV rows, JSON objects or Parquet rows.

Owns the bytes: unpacking, lines, encoding, quoting and the point up to which a damaged file can be read. Memory is
flat for any size of file or line. What cannot be read is said as a `BadLine`, and never costs more than itself.
Refuses to know where a value goes (`importers`) and whether it is good (the gate).
"""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import re
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from gnomon.errors import InvalidValue, MissingExtra

FORMATS = ("combined", "csv", "ndjson", "parquet")
LINE_LIMIT = 1 << 20
TEXT_SHOWN = 2_000
UNREADABLE = object()  # stands for a Parquet value that Python cannot hold, such as the year 10000
_BLOCK = 1 << 17
_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_REASONS = {
    "line-too-long": "the line is longer than 1 MiB",
    "bad-encoding": "the line is not valid UTF-8",
    "truncated-file": "the file is cut short or damaged here; nothing beyond this point could be read",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Line = tuple[int, bytes, str]  # number from 1, content without "\n", code of what is wrong with it or ""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that became no event: where, why, and its text up to 2,000 characters."""

    line: int
    code: str
    reason: str
    text: str


class LineFault(Exception):
    """Why one line cannot become an event; whoever reads the lines turns it into a `BadLine`."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason or _REASONS[code]


def bad_line(line: int, fault: LineFault, data: bytes) -> BadLine:
    return BadLine(line, fault.code, fault.reason, data[: 4 * TEXT_SHOWN].decode("utf-8", "replace")[:TEXT_SHOWN])


# --- bytes and lines


class Source:
    """The bytes of one file, unpacked if they are gzip whatever the name says; knows how far they were read."""

    def __init__(self, path: Path) -> None:
        remedy = "Check the path, and that this user may read the file."
        if not path.is_file():
            raise InvalidValue("there is no file at the given path", code="no-such-file", remedy=remedy)
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise InvalidValue("the file cannot be opened", code="no-such-file", remedy=remedy) from error
        self.bytes_total = path.stat().st_size
        self.unpacked = 0
        self.damaged = False
        self.packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        self.stream = cast(BufferedReader, gzip.GzipFile(fileobj=self._raw)) if self.packed else self._raw

    @property
    def bytes_done(self) -> int:
        return min(self._raw.tell(), self.bytes_total)

    def read(self) -> bytes:
        """The next bytes, b"" at the end. One small read each, as a damaged gzip loses what its last read held."""
        try:
            block = self.stream.read1(_BLOCK)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            self.damaged = True
            return b""
        self.unpacked += len(block)
        return block

    def close(self) -> None:
        self.stream.close()
        self._raw.close()


def _joined(start: bytes, more: bytes, long: bool) -> tuple[bytes, bool]:
    long = long or len(start) + len(more) > LINE_LIMIT
    return ((start + more)[: 4 * TEXT_SHOWN], True) if long else (start + more, False)


def lines(source: Source) -> Iterator[Line]:
    """Every physical line; of one that is too long only the beginning is ever held."""
    number, start, long = 0, b"", False
    while block := source.read():
        parts = block.split(b"\n")
        start, long = _joined(start, parts[0], long)
        if len(parts) == 1:
            continue
        number += 1
        yield number, start.removeprefix(b"\xef\xbb\xbf") if number == 1 else start, "line-too-long" if long else ""
        for part in parts[1:-1]:
            number += 1
            yield number, part, ""
        start, long = parts[-1], False
    if start or source.damaged:
        # Half a line is no event: read whole another day, it would get another id and count twice.
        fault = "truncated-file" if source.damaged else "line-too-long" if long else ""
        yield number + 1, start.removeprefix(b"\xef\xbb\xbf") if number == 0 else start, fault


def detect_format(path: Path) -> str:
    """The format by the file's name, else by its first lines; one of `FORMATS`."""
    by_name = _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    with closing(Source(path)) as source:
        head = source.read()
    found = by_name or _format_of(head)
    if found is None:
        remedy = f"Name it with format= (or --format): {', '.join(FORMATS)}."
        raise InvalidValue("neither name nor content of the file tell its format", code="unknown-format", remedy=remedy)
    return found


def _format_of(head: bytes) -> str | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    first = [line.rstrip("\r") for line in text.split("\n", 50)[:50] if line.strip()]
    if first and first[0].startswith("{"):
        return "ndjson"
    if any(_LOG.match(line) for line in first[:5]):
        return "combined"
    if len(first) < 2 or "\0" in text or first[0].lstrip()[:1] in ("[", "<"):
        return None
    mark = _delimiter(first[0])
    widths = {len(_OUTSIDE_QUOTES.sub("", line).split(mark)) for line in first[:2]}
    return "csv" if len(widths) == 1 and widths != {1} else None


# --- access logs

_QUOTED = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Possessive throughout, so that no line, however hostile, is walked more than a constant number of times.
_LOG = re.compile(
    r"(\S++) \S++ (\S.{0,200}?) \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d):(\d\d) ([+-]\d{4})\] "
    rf'"(?:([A-Z][A-Z-]{{0,19}}+) ([^"\\\s]++) (HTTP/\d(?:\.\d)?)|({_QUOTED}))" (\d{{3}}|-) (\d{{1,19}}|-)'
    rf'(?: "({_QUOTED})" "({_QUOTED})(?:(")|\\?$))?((?: (?:"{_QUOTED}"|[^\s"]\S*+))*+)\s*+$',
    re.ASCII | re.DOTALL,
)
_REQUEST = re.compile(r"([A-Z][A-Z-]{0,19}+) (\S.*) (HTTP/\d(?:\.\d)?)", re.ASCII)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}+://", re.ASCII)
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]{0,30}+:)?//)?([^/]*+)(.*)", re.ASCII | re.DOTALL)
_HOST = re.compile(r"(\[[^\]]*+\]|[^:]*+)(:\d{1,5}(?!\d))?", re.ASCII)
_ESCAPE = re.compile(r'\\(["\\])')
_SECRETS = re.compile(r"\?\S*+|(?<=//)[^/\s]*@|(?<![^\s/@])[^\s/@:]*+:[^\s/@]*+@")
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_NOT_A_LOG_LINE = "the line is not an access log line of the common or combined form"


@lru_cache(maxsize=4096)
def _minute(text: str, zone: str) -> int | None:
    """UTC microseconds of `17/May/2015:10:05` at `+0000`; None if there is no such minute."""
    offset = int(zone[1:3]) * 60 + int(zone[3:5])
    try:
        month = _MONTHS.index(text[3:6]) // 3 + 1
        wall = datetime(int(text[7:11]), month, int(text[:2]), int(text[12:14]), int(text[15:17]), tzinfo=UTC)
    except ValueError:
        return None
    return (wall - _EPOCH) // _MICROSECOND - (-offset if zone[0] == "-" else offset) * 60_000_000


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _split_url(text: str) -> tuple[str, str, str, str]:
    """Scheme with its colon, host, port with its colon, and path, each perhaps empty; never a query or credentials."""
    match = _URL.match(text.partition("?")[0].partition("#")[0])
    scheme, authority, path = match.groups("") if match else ("", "", "")
    host = _HOST.match(authority.rpartition("@")[2])
    return (scheme, host[1], host[2] or "", path) if host else (scheme, "", "", path)


def _referrer(text: str) -> str:
    if "@" not in text:
        return text.partition("?")[0].partition("#")[0]
    scheme, host, port, path = _split_url(text)
    return f"{scheme}//{host}{port}{path}" if "//" in text else f"{scheme}{host}{port}{path}"


def _add_request(
    fields: dict[str, Any], properties: dict[str, Any], method: str | None, target: str, protocol: str, line: str | None
) -> None:
    if line is not None and (again := _REQUEST.fullmatch(line := _unescaped(line))):
        method, target, protocol = again.groups()
    if method is not None and _place_request(fields, method, target):
        properties["protocol"] = protocol
    else:
        properties["request_line"] = _SECRETS.sub("", line if line is not None else f"{method} {target} {protocol}")


def _place_request(fields: dict[str, Any], method: str, target: str) -> bool:
    """Method, domain and endpoint of a request's target; False if the target is none that HTTP knows."""
    if target[0] == "/" or target == "*":
        fields["endpoint"] = target.partition("?")[0].partition("#")[0]
    elif _ABSOLUTE.match(target):
        _, host, port, path = _split_url(target)
        fields["endpoint"] = path or "/"
        if host:
            fields["domain"] = host.strip("[]").lower() + port
    elif method == "CONNECT":
        _, host, port, _ = _split_url("//" + target)
        fields["domain"] = host.strip("[]").lower() + port
    else:
        return False
    fields["method"] = method
    return True


def log_fields(text: str) -> dict[str, Any]:
    """The event of one access log line: common or combined, perhaps with more words at its end.

    A user agent without its closing quote (a line cut short) is kept, with the property `truncated`; words after
    the last field (virtual host, request time) are the property `extra`, as nothing tells which they are. A request
    line that is not METHOD path PROTOCOL is the property `request_line`, without query or credentials.
    """
    match = _LOG.match(text)
    if match is None:
        raise LineFault("bad-line", _NOT_A_LOG_LINE)
    host, user, minute, second, zone, status, sent = match.group(1, 2, 3, 4, 5, 10, 11)
    start = _minute(minute, zone)
    if start is None or second > "60":
        raise LineFault("bad-line", "the time of the line does not exist")
    fields: dict[str, Any] = {"type": "request", "ts": start + int(second) * 1_000_000}
    properties: dict[str, Any] = {}
    if host != "-":
        fields["device_id"] = host
    if user != "-":
        fields["user_id"] = _unescaped(user)
    _add_request(fields, properties, *match.group(6, 7, 8, 9))
    if status != "-":
        fields["status_code"] = int(status)
    if sent != "-":
        fields["bytes_sent"] = int(sent)
    _add_rest(properties, *match.group(12, 13, 14, 15))
    fields["properties"] = properties
    return fields


def _add_rest(properties: dict[str, Any], referrer: str | None, agent: str | None, end: str | None, extra: str) -> None:
    if referrer is not None and referrer != "-" and (shown := _referrer(_unescaped(referrer))):
        properties["referrer"] = shown
    if agent and agent != "-":
        properties["user_agent"] = _unescaped(agent)
    if agent is not None and end is None:
        properties["truncated"] = True
    if extra:
        properties["extra"] = _unescaped(extra[1:])


# --- CSV

_OUTSIDE_QUOTES = re.compile(r'"[^"]*+"')
_REREAD = 8


def _delimiter(header: str) -> str:
    bare = _OUTSIDE_QUOTES.sub("", header)
    return max(",;\t|", key=bare.count)


class _Feed:
    """Hands lines to the csv module and keeps those of the row at hand, so that a stray quote costs one line.

    An open quote swallows lines until the row is too large; all but its first are then read again. How much may be
    read again is bounded by a multiple of what was read, so a hostile file is still read in linear time.
    """

    def __init__(self, source: Source) -> None:
        self._fresh = lines(source)
        self._again: deque[Line] = deque()
        self._allowance = 0
        self._size = 0
        self.row: list[Line] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            line = next(self._fresh)
            self._allowance += _REREAD * (len(line[1]) + 1)
        self.row.append(line)
        if line[2]:
            raise LineFault(line[2])
        self._size += len(line[1]) + 64  # a held line costs more than its bytes
        if self._size > LINE_LIMIT + 64:
            raise LineFault("line-too-long")
        return line[1].decode() + "\n"

    def peek(self) -> bytes:
        """The first line that is not blank; it will be handed out again."""
        for line in self._fresh:
            if line[2] or line[1].strip():
                self._again.append(line)
                return line[1]
        return b""

    def begin_row(self) -> None:
        self.row.clear()
        self._size = 0

    def read_again(self) -> None:
        """Takes back all lines of the row but its first."""
        rest = self.row[1:]
        cost = sum(len(line[1]) + 1 for line in rest)
        if cost <= self._allowance:
            self._allowance -= cost
            self._again.extendleft(reversed(rest))
            del self.row[1:]

    def bad_row(self, fault: LineFault) -> BadLine:
        return bad_line(self.row[0][0], fault, b"\n".join(line[1] for line in self.row[: TEXT_SHOWN + 1]))


def csv_rows(source: Source) -> Iterator[tuple[int, list[str]] | BadLine]:
    """Rows with the number of their first physical line, the header first; every row is as wide as the header."""
    feed = _Feed(source)
    rows = csv.reader(feed, delimiter=_delimiter(feed.peek().decode("utf-8", "replace")), strict=True)
    width = 0
    while True:
        feed.begin_row()
        try:
            cells = next(rows)
        except StopIteration:
            return
        except (csv.Error, LineFault, UnicodeDecodeError) as error:
            yield _broken_row(feed, error)
            continue
        width = width or len(cells)
        if len(cells) == width:
            yield feed.row[0][0], cells
        elif cells:
            yield feed.bad_row(LineFault("bad-line", "the row has more or fewer cells than the header"))


def _broken_row(feed: _Feed, error: Exception) -> BadLine:
    fault = LineFault("bad-line", "the row breaks the rules of CSV quoting")
    if len(feed.row) > 1:
        feed.read_again()
    elif isinstance(error, UnicodeDecodeError):
        fault = LineFault("bad-encoding")
    elif isinstance(error, LineFault):
        fault = error
    return feed.bad_row(fault)


# --- JSON

_KEY = re.compile(rb'"\s*+:')
_NOT_AN_OBJECT = "the text is not a JSON object"


def json_object(data: bytes) -> dict[str, Any]:
    """The one object of a line; a key given twice is refused, as nobody can tell which value was meant."""
    try:
        value = msgspec.json.decode(data)
        if type(value) is not dict:
            raise LineFault("bad-line", _NOT_AN_OBJECT)
        # Every key has a quote and a colon, so equal numbers prove that no key was lost.
        if len(_KEY.findall(data)) != _count_keys(value):
            json.loads(data, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise LineFault("bad-encoding") from error
    except RecursionError as error:
        raise LineFault("bad-line", "the object is nested too deeply") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise LineFault("bad-line", _NOT_AN_OBJECT) from error
    return value


def _count_keys(value: Any) -> int:
    total, todo = 0, [value]
    while todo:
        part = todo.pop()
        if type(part) is dict:
            total += len(part)
            todo.extend(part.values())
        elif type(part) is list:
            todo.extend(part)
    return total


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineFault("duplicate-key", "a key is given twice in the same object")
    return found


# --- Parquet


class ParquetRows:
    """Column names, and rows as tuples of Python values, read a batch at a time with pyarrow (extra `arrow`)."""

    def __init__(self, path: Path, batch: int) -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise MissingExtra("pyarrow", "arrow") from error
        self._batch = batch
        self._source = Source(path)
        self._file = cast(Any, None)
        self._unpacked: IO[bytes] | None = None
        self.bytes_total = self._source.bytes_total
        self.rows_read = 0
        self.damaged = not self._open(parquet)
        self.header: list[str] = list(self._file.schema_arrow.names) if self._file is not None else []

    def _open(self, parquet: Any) -> bool:
        if self._source.packed:  # Parquet is read from its end, which gzip cannot do
            self._unpacked = tempfile.TemporaryFile()  # noqa: SIM115, closed with the reader
            while block := self._source.read():
                self._unpacked.write(block)
        try:
            self._file = parquet.ParquetFile(self._unpacked or self._source.stream)
        except (OSError, ValueError, self._arrow.ArrowException):
            return False
        return True

    @property
    def unpacked(self) -> int:
        return 0

    @property
    def bytes_done(self) -> int:
        rows = self._file.metadata.num_rows if self._file is not None else 0
        return self.bytes_total * self.rows_read // rows if rows else self.bytes_total

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...]] | BadLine]:
        try:
            if not self.damaged:
                for batch in self._file.iter_batches(batch_size=self._batch):
                    for values in zip(*map(self._values, batch.columns), strict=True):
                        self.rows_read += 1
                        yield self.rows_read, values
        except (OSError, ValueError, self._arrow.ArrowException):
            self.damaged = True
        if self.damaged:
            yield bad_line(self.rows_read + 1, LineFault("truncated-file"), b"")

    def _values(self, column: Any) -> list[Any]:
        kind = column.type
        if self._arrow.types.is_timestamp(kind):  # a datetime holds microseconds, no finer
            column = column.cast(self._arrow.timestamp("us", kind.tz), safe=False)
        try:
            values: list[Any] = column.to_pylist()
        except (ValueError, OverflowError):
            values = [_python_value(scalar) for scalar in column]
        return values

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._unpacked is not None:
            self._unpacked.close()
        self._source.close()


def _python_value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return UNREADABLE
