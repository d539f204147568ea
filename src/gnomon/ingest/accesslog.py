"""Lines of an access log, common or combined, to the fields of events: what a request was, and never its secrets.

No query, fragment or credential of an address gets into an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any

from gnomon.ingest.calls import ONE, Column
from gnomon.ingest.columns import Candidate, Plan
from gnomon.ingest.lines import TEXT_SHOWN, BadLine, Line, LineFault, bad_line
from gnomon.ingest.tables import CONTENT, Table, with_ids
from gnomon.timerange import to_us

_QUOTED = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Possessive throughout, so that no line, however hostile, is walked more than a constant number of times.
LOG_LINE = re.compile(
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


@lru_cache(maxsize=4096)
def _minute(text: str, zone: str) -> int | None:
    """UTC microseconds of `17/May/2015:10:05` at `+0000`; None if there is no such minute."""
    offset = int(zone[1:3]) * 60 + int(zone[3:5])
    try:
        month = _MONTHS.index(text[3:6]) // 3 + 1
        wall = datetime(int(text[7:11]), month, int(text[:2]), int(text[12:14]), int(text[15:17]), tzinfo=UTC)
    except ValueError:
        return None
    return to_us(wall) - (-offset if zone[0] == "-" else offset) * 60_000_000


def without_secrets(data: bytes) -> bytes:
    """A line that is none, for the quarantine: without what looks like a query or credentials."""
    return _SECRETS.sub("", data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


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
    match = LOG_LINE.match(text)
    if match is None:
        raise LineFault("bad-line", "the line is not an access log line of the common or combined form")
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


def is_blank(data: bytes) -> bool:
    """Whether a line has nothing to read."""
    if data and 32 < data[0] < 127:
        return False
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return not text or text.isspace()


def items(lines: Iterable[Line], plan: Plan,
          ids: Iterable[str | None] = repeat(None)) -> Iterator[Candidate | BadLine]:  # fmt: skip
    """Lines one by one; `ids` where they were derived before."""
    for (number, data, code), id_ in zip(lines, ids, strict=False):
        try:
            if code:
                raise LineFault(code)
            data = data.removesuffix(b"\r")
            fields = log_fields(data.decode())
            fields["id"] = id_ or plan.ids.id_of(data)
            if plan.constants:
                fields.update(plan.fields)
                fields["properties"].update(plan.properties)
            yield Candidate(number, fields)
        except UnicodeDecodeError:
            yield bad_line(number, LineFault("bad-encoding"), without_secrets(data[: 4 * TEXT_SHOWN]))
        except LineFault as fault:
            yield bad_line(number, fault, without_secrets(data[: 4 * TEXT_SHOWN]))


def table(lines: Sequence[Line], plan: Plan) -> Table:
    """Lines at once. Raises one of `UNUSUAL`."""
    if any(code for _, _, code in lines):
        raise ValueError
    contents = [data.removesuffix(b"\r") for _, data, _ in lines]
    rows = [log_fields(data.decode()) for data in contents]
    found: dict[str, Column] = {name: [row.get(name) for row in rows] for name in {"weight"}.union(*rows)}
    for name, value in plan.fields.items():
        found[name] = [value] * len(rows)
    found["weight"] = [ONE if one is None else one for one in found["weight"]]
    if plan.properties:
        found["properties"] = [{**one, **plan.properties} for one in found["properties"]]
    numbers = [number for number, _, _ in lines]
    return Table(numbers, with_ids({**found, CONTENT: contents}, plan.ids), lambda ids: items(lines, plan, ids))
