"""No credentials of an address get into any file, whichever way it comes in; everything else of it stays as given."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnomon
from gnomon.ingest import addresses, gate
from gnomon.ingest.addresses import bare_domain, bare_endpoint, bare_source, bare_urls, split_url
from gnomon.testing import ManualClock

SECRET = "canary-of-a-password"
LINE = f'10.0.0.1 - - [15/Jan/2026:11:00:00 +0000] "GET http://u:{SECRET}@h/a?token={SECRET} HTTP/1.1" 200 5 "-" "x"'


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("example.com", "example.com"),
        ("user:secret@example.com:80", "example.com:80"),
        ("secret@example.com", "example.com"),
        ("https://user:se#cr?et@example.com/a?b=c#d", "https://example.com/a"),
        ("example.com?token=1", "example.com"),
        (5, 5),
        (None, None),
    ],
)
def test_domains(given_, kept):
    assert bare_domain(given_) == kept


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("/a/{id}", "/a/{id}"),
        ("/a/{id?}/b", "/a/{id?}/b"),
        (r"^/users/(?P<id>\d+)/(?:x)$", r"^/users/(?P<id>\d+)/(?:x)$"),
        ("/a?token=1", "/a"),
        ("/wiki/a_(b)?token=1", "/wiki/a_(b)"),
        ("?token=1", None),
        ("", ""),
        ("/#/settings", "/#/settings"),
        ("/cb#access_token=1", "/cb"),
        ("/@someone/post", "/@someone/post"),
        ("/v2/image:tag@sha256:1", "/v2/image:tag@sha256:1"),
        ("https://user:secret@example.com/a?b", "https://example.com/a"),
        ("user:secret@example.com/a", "example.com/a"),
        ([], []),
    ],
)
def test_endpoints(given_, kept):
    assert bare_endpoint(given_) == kept


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("user:secret@example.com:80/a", ("example.com:80", "/a")),
        ("http:/user:secret@example.com/a", (None, "example.com/a")),
        ("//user:secret@example.com/a", ("example.com", "/a")),
    ],
)
def test_urls_that_only_look_like_some(url, kept):
    assert split_url(url) == kept


def test_sources_and_texts():
    assert bare_source("http://user:secret@10.0.0.1:8080") == "http://10.0.0.1:8080"
    assert bare_source("user:secret@10.0.0.1:8080") == "10.0.0.1:8080"
    assert bare_source("someone@list") == "someone@list"
    told = {"url": 'http://u:"q\\@example.com/a?x=1', "to": "a@b.c, see https://x.y/z@1"}
    assert json.loads(bare_urls(json.dumps(told))) == {**told, "url": "http://example.com/a?x=1"}


USERS = st.text(st.characters(exclude_characters='/?#@[]\\"', exclude_categories=["C", "Z"]), max_size=8)


@given(USERS, st.sampled_from(["example.com", "10.0.0.1:8080", "[::1]:80"]), st.sampled_from(["", "/", "/a/b"]))
def test_any_credentials_go_and_nothing_else(user, host, path):
    """All ways in say the same of an address."""
    url = f"http://{user}:{SECRET}@{host}{path}"
    assert bare_domain(url) == bare_endpoint(url) == bare_source(url) == bare_urls(url) == f"http://{host}{path}"
    assert bare_domain(f"{user}:{SECRET}@{host}") == host
    assert bare_urls(json.dumps({"a": [url, 1]})) == json.dumps({"a": [f"http://{host}{path}", 1]})
    assert bare_urls(json.dumps(url).replace("/", "\\/")) == json.dumps(f"http://{host}{path}").replace("/", "\\/")
    assert SECRET not in str(split_url(url))


def record_all(engine, folder):
    url = f"https://user:{SECRET}@example.com:8443/a?token={SECRET}#{SECRET}"
    told = {"url": f"https://u:{SECRET}@h/a", "more": [{"referrer": f"see http://u:{SECRET}@h."}]}
    engine.record_request(url=url, properties=told)
    engine.record_request(url=f"u:{SECRET}@h/a")
    engine.track("a", domain=f"u:{SECRET}@h", endpoint=f"/a?token={SECRET}", source=f"http://u:{SECRET}@p:80")
    engine.track("a", domain=url, endpoint=url, source=f"u:{SECRET}@p:80", error_code=f"failed: //u:{SECRET}@h")
    engine.track("a", domain=url, endpoint=url, source=f"http://u:{SECRET}@p:80", status_code=7, properties=told)
    engine.record_request(url=url, status_code=7)
    engine.record_metric("m", 1, labels={"proxy": f"http://u:{SECRET}@p"})
    engine.record_metric("m", "1", labels={"proxy": f"http://u:{SECRET}@p"})
    row = {"type": "a", "ts": "2026-01-15T11:00:00Z", "domain": url, "endpoint": url, "payload": told}
    lines = [
        row,
        {**row, "src": f"//u:{SECRET}@p"},
        {**row, "status_code": 7},
        {**row, "strange": f"http://u:{SECRET}@h"},
    ]
    (folder / "a.ndjson").write_text("\n".join([*map(json.dumps, lines), f'{{"bad": "http://u:{SECRET}@h']))
    (folder / "a.csv").write_text(
        f"ts,type,path,host,url\n2026-01-15T11:00:00Z,a,{url},u:{SECRET}@h,http://u:{SECRET}@h\n"
    )
    (folder / "a.log").write_text(f"{LINE}\n{LINE[10:]}\nGET http://u:{SECRET}@h/?token={SECRET} HTTP/1.1\n")
    for name in ("a.ndjson", "a.csv"):
        engine.import_file(folder / name)
    engine.import_file(folder / "a.log", format="combined")
    engine.flush()


def leaks(folder):
    return [path.name for path in Path(folder).iterdir() if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.fixture
def run(tmp_path):
    """Everything recorded into a store, and the names of its files that hold the secret."""

    def run():
        (tmp_path / "in").mkdir()
        (tmp_path / "store").mkdir()
        with gnomon.open(tmp_path / "store" / "x.duckdb", clock=ManualClock(), sampling=False) as engine:
            record_all(engine, tmp_path / "in")
            assert engine.books().rejected.total() == 6
            assert len(engine.quarantine()) == 7
            found = leaks(tmp_path / "store")
        return found + leaks(tmp_path / "store")

    return run


def test_no_byte_of_a_password_gets_into_any_file(run):
    assert run() == []


@pytest.mark.parametrize("name", ["bare_address", "bare_source", "bare_urls", "split_url"])
def test_a_way_in_that_cuts_nothing_is_found(run, monkeypatch, name):
    def lazy(*given_):
        return (None, *given_) if name == "split_url" else given_ if name == "bare_address" else given_[0]

    monkeypatch.setattr(gate, name, lazy)
    assert run() != []


def test_a_bad_line_that_is_shown_whole_is_found(run, monkeypatch):
    from gnomon.ingest import lines

    monkeypatch.setattr(lines, "bare_urls", lambda text: text)
    assert run() != []


def test_urls_cost_linear_time():
    for text in ("//" * 100_000, "//a" * 100_000, "//" + "a" * 300_000, "a:" * 100_000, '//\\"' * 50_000):
        assert addresses.bare_text(text) == text
