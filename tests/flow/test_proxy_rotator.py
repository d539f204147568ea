"""The proxy rotator example: its proxies are real, it ends by itself, and its report is what was sent."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections import Counter

import httpx
import pytest

import gnomon
from recorded import SCRIPT, Engine, example


class Tally(Engine):
    """The second opinion on the report."""

    def count(self, wanted=lambda record: True):
        return dict(Counter(record["source"] for record in self.records if wanted(record)))


def failed(record):
    return record["success"] is False or record["status_code"] >= 400


def test_the_proxy_passes_absolute_form_requests_on_with_their_query():
    with example.Server(example.Origin) as origin, example.ForwardProxy() as proxy:
        for path, status in example.PAGES.items():
            answer = httpx.get(f"{origin.url}{path}?a=1&b=2", proxy=proxy.url, trust_env=False)
            assert (answer.status_code, answer.text) == (status, f"{path}\n" * 200)


@pytest.mark.parametrize("held", [0, 1_100])
def test_the_proxy_tunnels_connect(held):
    """Also in a process with more files than `select` can tell apart."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(held)]
    try:
        with example.Server(example.Origin) as origin, example.ForwardProxy() as proxy:
            through = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=5)
            through.set_tunnel("127.0.0.1", origin.server_port)
            for _ in range(3):
                through.request("GET", "/page")
                assert through.getresponse().read() == b"/page\n" * 200
            through.close()
    finally:
        for file in files:
            os.close(file)


def test_a_tunnel_to_nowhere_and_a_site_that_is_gone_are_answered_502():
    with example.Server(example.Origin) as origin:
        gone = origin.server_port
    with example.ForwardProxy() as proxy:
        assert httpx.get(f"http://127.0.0.1:{gone}/", proxy=proxy.url, trust_env=False).status_code == 502
        with pytest.raises(httpx.ProxyError, match="502"):
            httpx.get(f"https://127.0.0.1:{gone}/", proxy=proxy.url, trust_env=False)


def test_the_flaky_proxy_drops_connections_at_its_rate():
    with example.Server(example.Origin) as origin, example.ForwardProxy(drop_rate=1.0) as proxy:
        for scheme in ("http", "https"):
            with pytest.raises((httpx.RemoteProtocolError, httpx.ConnectError, httpx.ProxyError)):
                httpx.get(f"{scheme}://127.0.0.1:{origin.server_port}/page", proxy=proxy.url, trust_env=False)


def test_the_rotator_takes_turns_and_benches_a_source_that_failed():
    answers = {"good": 200, "bad": 503}
    sources = {name: lambda url, status=status: httpx.Response(status) for name, status in answers.items()}
    rotator = example.Rotator(sources)
    picked = []
    for _ in range(8):
        turn = rotator.pick
        rotator.pick = lambda turn=turn: picked.append(turn()) or picked[-1]
        rotator.get("http://x/")
        del rotator.pick
    assert picked == ["good", "bad", "good", "good", "good", "bad", "good", "good"]


def test_every_request_of_a_crawl_is_recorded_once_under_its_source_and_a_rerun_is_the_same():
    first, second = Tally(), Tally()
    pages = example.crawl(first, 60)
    assert example.crawl(second, 60) == pages
    assert sum(first.count().values()) == 60
    assert set(first.count()) == {"premium", "free-list", "direct"}
    assert first.count() == second.count()
    assert first.count(failed) == second.count(failed)
    assert {record["application"] for record in first.records} == {"crawler"}
    assert {record["error_code"] for record in first.records} == {None, "remote-protocol-error"}
    assert not any("turn=" in repr(record) for record in first.records)


def test_the_report_is_what_was_sent(tmp_path, capsys):
    tally = Tally()
    pages = example.crawl(tally, 60)
    store = str(tmp_path / "rotator.duckdb")
    assert example.main(["--store", store, "--requests", "60"]) == 0
    printed = capsys.readouterr().out
    assert f"{pages} of 60 requests brought a page." in printed
    with gnomon.open(store) as engine:
        rows = {row["source"]: row for row in example.report(engine)}
    sent, failures = tally.count(), tally.count(failed)
    assert {source: row["requests"] for source, row in rows.items()} == sent
    assert {source: row["failures"] for source, row in rows.items()} == {name: failures.get(name, 0) for name in sent}
    for source, row in rows.items():
        assert source in printed
        assert row["success_rate"] == pytest.approx(1 - failures.get(source, 0) / sent[source])
    # The flaky proxy sleeps 30 ms before each answer, and the origin's slow page 50 ms.
    assert rows["free-list"]["p95_duration_ms"] >= 30
    assert rows["free-list"]["success_rate"] < rows["premium"]["success_rate"]


def test_the_script_runs_by_itself_and_ends():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--requests", "12"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert all(source in done.stdout for source in ("premium", "free-list", "direct"))
