"""Access logs to candidates, hostile lines included."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from gnomon.errors import InvalidValue
from importing import LOG, log


def test_combined_fields(load):
    line = (
        r'::1 - "j\"d" [01/Jan/2020:00:00:60 -0130] "POST /a/b?token=1#x HTTP/2.0" 201 - '
        r'"https://u:p@h.org:81/p?q=1" "A \"B\" \\ \x41"'
    )
    found = log(load, line)
    assert found.fields == {
        "id": found.fields["id"], "type": "request", "device_id": "::1", "user_id": '"j"d"', "method": "POST",
        "ts": int(datetime(2020, 1, 1, 1, 31, tzinfo=UTC).timestamp()) * 1_000_000, "endpoint": "/a/b",
        "status_code": 201,
        "properties": {"protocol": "HTTP/2.0", "referrer": "https://h.org:81/p", "user_agent": 'A "B" \\ \\x41'},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rest", "extra"),
    [("", None), (' "-" "-"', None), (' "-" "-" 0.123', "0.123"), (' "-" "-" example.org "x y"', 'example.org "x y"')],
)
def test_common_log_and_words_at_the_end(load, rest, extra):
    found = log(load, '- - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" - 7' + rest)
    assert found.fields["properties"] == {"protocol": "HTTP/1.1"} | ({"extra": extra} if extra else {})
    assert found.fields["bytes_sent"] == 7
    assert not found.fields.keys() & {"device_id", "user_id", "status_code", "domain"}


@pytest.mark.parametrize(
    ("request_line", "method", "domain", "endpoint"),
    [
        ("GET http://bob:pw@Ex.org:80/p?q HTTP/1.1", "GET", "ex.org:80", "/p"),
        ("GET http://bob:pw@[::1]/p HTTP/1.1", "GET", "::1", "/p"),
        ("GET https://ex.org HTTP/1.1", "GET", "ex.org", "/"),
        ("GET http://bob:p?w@ex.org/ HTTP/1.1", "GET", "bob", "/"),
        ("CONNECT u:p@ex.org:443 HTTP/1.1", "CONNECT", "ex.org:443", None),
        ("OPTIONS * HTTP/1.0", "OPTIONS", None, "*"),
        ("M-SEARCH /x HTTP/1.1", "M-SEARCH", None, "/x"),
        ("GET /a b HTTP/1.1", "GET", None, "/a b"),
        (r"GET /a\"b HTTP/1.1", "GET", None, '/a"b'),
    ],
)
def test_request_targets(load, request_line, method, domain, endpoint):
    fields = log(load, f'h - - [01/Jan/2020:00:00:00 +0000] "{request_line}" 200 1').fields
    assert (fields["method"], fields.get("domain"), fields.get("endpoint")) == (method, domain, endpoint)
    assert "p" not in fields.get("domain", "").split(":")


@pytest.mark.parametrize(
    ("request_line", "kept"),
    [
        ("-", "-"),
        ("", ""),
        (r"\x16\x03\x01", r"\x16\x03\x01"),
        ("GET /old", "GET /old"),
        ("get /x?token=1 HTTP/1.1", "get /x HTTP/1.1"),
        ("GET user:pw@host HTTP/1.1", "GET host HTTP/1.1"),
        ("get http://u:p@h/x HTTP/1.1", "get http://h/x HTTP/1.1"),
        ("get http://tok@h/x HTTP/1.1", "get http://h/x HTTP/1.1"),
        ("ABCDEFGHIJKLMNOPQRSTU / HTTP/1.1", "ABCDEFGHIJKLMNOPQRSTU / HTTP/1.1"),
    ],
)
def test_request_lines_that_are_none(load, request_line, kept):
    fields = log(load, f'h - - [01/Jan/2020:00:00:00 +0000] "{request_line}" 400 0').fields
    assert fields["properties"] == {"request_line": kept}
    assert not fields.keys() & {"method", "endpoint", "domain"}
    assert fields["status_code"] == 400


@pytest.mark.parametrize(
    ("referrer", "kept"),
    [
        ("http://h/a@b?x", "http://h/a@b"),
        ("//u:p@h/x", "//h/x"),
        ("u:p@h/x", "h/x"),
        ("http://u:p?w@h/x", "http://u"),
        ("?", None),
        ("h#top", "h"),
    ],
)
def test_referrers_lose_query_and_credentials(load, referrer, kept):
    line = f'h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "{referrer}" "-"'
    assert log(load, line).fields["properties"].get("referrer") == kept


def test_a_user_agent_cut_short_is_imported(load):
    for cut in ('"-" "Mozilla/5.0 (X', '"-" "', '"-" "M\\'):
        found = log(load, '1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 ' + cut)
        assert found.fields["properties"]["truncated"] is True


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        LOG[:-8] + b'"x',
        LOG + b'"',
        LOG.replace(b"17/May", b"31/Feb"),
        LOG.replace(b"May", b"Foo"),
        LOG.replace(b"10:05:03", b"10:05:61"),
        LOG.replace(b"10:05:03", b"25:05:03"),
        LOG.replace(b" 200 ", b" 20 "),
        LOG.replace(b" 5 ", b" 99999999999999999999 "),
    ],
)
def test_lines_that_are_no_log_lines(load, line):
    assert log(load, line).code == "bad-line"


HOSTILE = [
    "a" * 100_000,
    "a " * 50_000,
    '"' * 100_000,
    "\\" * 100_000,
    "h - " + "a " * 50_000 + "[",
    *(
        'h - - [01/Jan/2020:00:00:00 +0000] "' + junk * (100_000 // len(junk))
        for junk in ("a", "\\", '\\"', "GET ", "GET / HTTP/1.1 ", '" "', "a:", "@", "//", "?", "/a@", '" 200 1 "')
    ),
    *(
        'h - - [01/Jan/2020:00:00:00 +0000] "' + junk * (100_000 // len(junk)) + '" 200 1 "-" "-"'
        for junk in ("a", "a:", "@", "//", "?", "//a", "a@b:", " HTTP/1.1", "GET / ")
    ),
    *(LOG.decode() + junk * (50_000 // len(junk)) + "\x01" for junk in (' "', ' "a"', " a", " ", '" ')),
]


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_lines_take_linear_time(load, line):
    start = time.thread_time()
    log(load, line)
    assert time.thread_time() - start < 3


def test_log_constants_but_no_columns(load):
    found = log(load, LOG, mapping={"source": "=web", "properties.site": "=7", "properties": '={"a": 1}'})
    assert found.fields["source"] == "web"
    assert found.fields["properties"] == {"protocol": "HTTP/1.1", "user_agent": "ua", "site": 7, "a": 1}
    with pytest.raises(InvalidValue, match="no columns"):
        log(load, LOG, mapping={"a": "user_id"})
