"""The real service as a process: killed in the middle of it, ended by a signal, started twice on one store."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serving import API, SECRET, bearer

import gnomon
from gnomon.cli import main


class Process:
    """`gnomon serve` on a free port, and its address."""

    def __init__(self, store, *options: str, **environ: str) -> None:
        env = {**os.environ, "JWT_SECRET_KEY": SECRET, "RATE_LIMIT_PER_MINUTE": "0", **environ}
        command = [sys.executable, "-c", "import sys; from gnomon.cli import main; sys.exit(main())", "serve",
                   "--port", "0", "--store", str(store), *options]  # fmt: skip
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        found = re.search(r"at (http://[\d.:]+)", self.line)
        assert found, self.line + self.process.stderr.read()
        self.url = found[1]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}{API}/healthz").status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError("the service does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def end(self, sign=signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(sign)
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors


class Ledger:
    """Clients that send batches until they are stopped, and what was acknowledged to them."""

    def __init__(self) -> None:
        self.url = ""
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.wrong: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._send, args=(name,)) for name in range(4)]

    def _send(self, name: int) -> None:
        chance, n, waiting = random.Random(name), 0, []
        while not self.stopping.is_set():
            if not waiting:
                waiting = [f"{name}-{n}-{k}" for k in range(chance.choice((1, 5, 50)))]
                n += 1
            self.sent.update(waiting)
            try:
                body = [{"id": one, "type": "x"} for one in waiting]
                answer = httpx.post(f"{self.url}{API}/ingest", json=body, headers=bearer(), timeout=10)
            except httpx.TransportError:
                time.sleep(0.02)  # nobody knows whether it was kept: the same again
                continue
            if answer.status_code == 200 and answer.json()["ingested"] == len(waiting):
                self.acknowledged.update(waiting)
                waiting = []
            elif answer.status_code != 503:
                self.wrong.append(answer.text)
                return


def run_and_kill(store, rounds: int, seconds: tuple[float, float]) -> Ledger:
    ledger, chance, begun = Ledger(), random.Random(7), False
    for _ in range(rounds):
        service = Process(store)
        ledger.url = service.url
        if not begun:
            for thread in ledger.threads:
                thread.start()
            begun = True
        known, until = len(ledger.acknowledged), time.monotonic() + 30
        while seconds[0] > 0.5 and len(ledger.acknowledged) == known and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(chance.uniform(*seconds))
        service.kill()
    ledger.stopping.set()
    for thread in ledger.threads:
        thread.join()
    return ledger


def check(store, ledger: Ledger) -> None:
    assert not ledger.wrong and ledger.acknowledged
    with gnomon.open(store) as engine:
        kept = [
            row[0]
            for row in engine._hold.own().ask(["SELECT coalesce(id_text, id::VARCHAR) FROM events"], 60.0)[0].rows
        ]
        books = engine.books()
    assert len(kept) == len(set(kept)), "an event was kept twice"
    assert ledger.acknowledged <= set(kept) <= ledger.sent
    assert books.closes() and books.stored == len(kept)


def test_what_was_acknowledged_survives_kill_9_once(tmp_path):
    ledger = run_and_kill(tmp_path / "s.duckdb", rounds=2, seconds=(0.6, 1.2))
    check(tmp_path / "s.duckdb", ledger)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_many_kills_once(tmp_path):
    ledger = run_and_kill(tmp_path / "s.duckdb", rounds=15, seconds=(0.05, 3.0))
    check(tmp_path / "s.duckdb", ledger)


def test_a_signal_ends_it_without_losing_or_refusing_what_was_begun(tmp_path):
    service = Process(tmp_path / "s.duckdb")
    answers, began = [], threading.Event()

    def send() -> None:
        with httpx.Client(base_url=service.url, headers=bearer(), timeout=30) as link:
            for n in range(1_000):
                began.set()
                try:
                    answers.append((n, link.post(f"{API}/ingest", json={"id": str(n), "type": "x"}).status_code))
                except httpx.TransportError:
                    return

    thread = threading.Thread(target=send)
    thread.start()
    began.wait()
    time.sleep(0.3)
    code, errors = service.end()
    thread.join()
    assert code == 0 and "Traceback" not in errors, errors
    assert {status for _, status in answers} == {200}
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        assert engine.books().stored >= len(answers)
        assert engine._journal.sizes()["batches"] <= 2  # the end drained it: only this engine's own beat is new


def test_a_second_one_takes_events_and_takes_over(tmp_path):
    first, second = Process(tmp_path / "s.duckdb"), Process(tmp_path / "s.duckdb")
    try:
        health = httpx.get(f"{second.url}{API}/healthz", timeout=30).json()
        assert (health["ready"], health["answers"]) == (True, False)
        taken = httpx.post(f"{second.url}{API}/ingest", json={"type": "x"}, headers=bearer(), timeout=30)
        assert taken.status_code == 200
        busy = httpx.get(f"{second.url}{API}/admin/books", headers=bearer(), timeout=30)
        assert busy.status_code == 503 and int(busy.headers["retry-after"]) > 0 and busy.json()["type"] == "store-busy"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            books = httpx.get(f"{first.url}{API}/admin/books", headers=bearer(), timeout=30).json()["event"]
            if books["stored"] == 1:
                break
            time.sleep(0.05)
        assert books["stored"] == 1 and books["closes"]
        assert first.end()[0] == 0
        assert httpx.get(f"{second.url}{API}/admin/books", headers=bearer(), timeout=30).json()["event"]["stored"] == 1
        assert httpx.get(f"{second.url}{API}/healthz", timeout=30).json()["answers"]
    finally:
        for one in (first, second):
            if one.process.poll() is None:
                one.end()


def test_it_refuses_to_start_without_a_key_or_with_many_workers(tmp_path, capsys, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("JWT_", "GNOMON_")):
            monkeypatch.delenv(name)

    def refused(*words: str) -> str:
        assert main([words[0], "--store", str(tmp_path / "s.duckdb"), *words[1:]]) == 2
        return capsys.readouterr().err

    assert "no-key" in refused("serve")
    assert "no-secret" in refused("token")
    monkeypatch.setenv("JWT_SECRET_KEY", "secret")
    assert "weak-secret" in refused("serve", "--dev")
    monkeypatch.setenv("JWT_SECRET_KEY", SECRET)
    assert "more than one worker" in refused("serve", "--workers", "2")
    assert "bad-address" in refused("serve", "--host", "192.0.2.1")
    assert "bad-address" in refused("serve", "--port", "99999999")
    assert not (tmp_path / "s.duckdb").exists()


def test_dev_prints_a_token_that_works(tmp_path):
    env = {"JWT_SECRET_KEY": ""}
    service = Process(tmp_path / "s.duckdb", "--dev", **env)
    try:
        service.process.stdout.readline()
        token = service.process.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {token}"}
        taken = httpx.post(f"{service.url}{API}/ingest", json={"type": "x"}, headers=headers, timeout=30)
        assert taken.json()["ingested"] == 1
        assert httpx.get(f"{service.url}/metrics", headers=headers, timeout=30).status_code == 200
        of_another_secret = bearer()
        assert httpx.get(f"{service.url}{API}/admin/books", headers=of_another_secret, timeout=30).status_code == 401
    finally:
        assert service.end(signal.SIGINT)[0] in (0, 130)


def test_the_command_makes_tokens_and_keys(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JWT_SECRET_KEY", SECRET)
    store = ["--store", str(tmp_path / "s.duckdb")]
    service = Process(tmp_path / "s.duckdb")
    try:
        assert main(["token", *store, "--sub", "ann", "--scope", "ingest"]) == 0
        assert main(["token", *store, "--write-key", "shop", "--origin", "https://shop.example"]) == 0
        token, key = capsys.readouterr().out.split()
        for credential in (token, key):
            headers = {"Authorization": f"Bearer {credential}"}
            answer = httpx.post(f"{service.url}{API}/ingest", json={"type": "x"}, headers=headers, timeout=30)
            assert answer.status_code == 200, json.dumps(answer.json())
    finally:
        service.end()
