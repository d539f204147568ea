"""`gnomon worker` as a process, with jobs and a pace of the test's own.

Run as a program: `python working.py PLAN ARGUMENT...`; PLAN is JSON of `round` (seconds between two askings), `jobs`
(each `name`, `period`, `seconds`, and `ledger`, a file that gets a line at its begin and at its end; `stubborn` ones do
not hear that they should end, `fails` times one raises), `piece` (seconds that each event of an export takes), `conf`
(settings of Celery) or `grace` (of ours) for broken variants, `look` (seconds between two looks at beat), `crash` (a
file: the first worker, which makes it, fails in the loop of Celery), `touch`, `silent` and `patience` (seconds of its
sign of life), `hang` (seconds after which its loop hangs), `loop_only` (broken: no sign while it waits for a broker).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any


def run(plan: dict[str, Any], arguments: list[str]) -> int:
    from celery.worker import loops

    from gnomon.cli import main, working
    from gnomon.export import reading, text
    from gnomon.upkeep import jobs, workers

    workers.ROUND_SECONDS = plan.get("round", 0.5)
    if "jobs" in plan:
        jobs.JOBS = tuple(jobs.Job(one["name"], one["period"], _job(one), one.get("whole", True))
                          for one in plan["jobs"])  # fmt: skip
    if "conf" in plan or "grace" in plan:
        import gnomon.worker

        gnomon.worker.GRACE_SECONDS = plan.get("grace", 30.0)
        chosen = gnomon.worker._celery_settings
        gnomon.worker._celery_settings = lambda *given: {**chosen(*given), **plan.get("conf", {})}
    working.BEAT_SECONDS, working.AGAIN_SECONDS = plan.get("look", 5.0), plan.get("again", 5.0)
    if "crash" in plan and not Path(plan["crash"]).exists():
        loops.asynloop = partial(_fail, Path(plan["crash"]))
    _signs_of_life(plan)
    if plan.get("unclaimed"):
        from gnomon.store.postgres import turns

        turns.TRY = "SELECT {} <> ''"
    if "piece" in plan:
        reading.MOST_ROWS = 1
        texts = text.Csv.texts

        def slow(self: text.Csv, rows: int, data: str, longest: int) -> bytes:
            time.sleep(plan["piece"])
            return texts(self, rows, data, longest)

        text.Csv.texts = slow  # type: ignore[method-assign]
    return main(["worker", *arguments])


def _signs_of_life(plan: dict[str, Any]) -> None:
    from celery import signals

    from gnomon import pulse, worker

    pulse.TOUCH_SECONDS = worker.TOUCH_SECONDS = plan.get("touch", 5.0)
    pulse.SILENT_SECONDS = plan.get("silent", 120.0)
    worker.BROKER_SECONDS = plan.get("patience", 30.0)
    if plan.get("loop_only"):
        pulse.Pulse._lives = lambda self: time.monotonic() - self._turned < pulse.SILENT_SECONDS  # type: ignore[method-assign]
    if "hang" in plan:
        hang = lambda sender, **_: sender.timer.call_after(plan["hang"], time.sleep, (60,))  # noqa: E731
        signals.worker_ready.connect(hang, weak=False)


def _fail(file: Path, *_given: Any, **_named: Any) -> None:
    file.touch()
    raise RuntimeError("as kombu's loop does where a broker ends")


def _job(one: dict[str, Any]) -> Any:
    def work(engine: Any) -> None:
        note(one["ledger"], f"begin {engine.settings.project} {os.getpid()}")
        until = time.monotonic() + one.get("seconds", 0.0)
        while time.monotonic() < until:
            with contextlib.suppress(Exception if one.get("stubborn") else ()):  # also of the soft limit
                time.sleep(0.05)
        if one.get("fails", 0) > sum(line.startswith("failed") for line in lines(one["ledger"])):
            note(one["ledger"], f"failed {engine.settings.project}")
            raise OSError("not now")
        note(one["ledger"], f"end {engine.settings.project}")

    return work


def note(ledger: str, line: str) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def lines(ledger: str | Path) -> list[str]:
    return Path(ledger).read_text().splitlines() if Path(ledger).exists() else []


@contextlib.contextmanager
def worker(plan: dict[str, Any], url: str, folder: Path, broker: str, *arguments: str,
           ends: bool = True, **environment: str) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A worker in a session of its own, which ends with all its processes; without `ends` it is killed."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(plan), "--store", url, *arguments], start_new_session=True,
            env={**os.environ, "CELERY_BROKER_URL": broker, "GNOMON_DATA_DIR": str(folder), **environment},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
        if ends and process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0, (folder / "worker.log").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(found: Any, seconds: float = 40.0, log: Path | None = None) -> Any:
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, log.read_text() if log else "it did not happen"
        time.sleep(0.05)
    return value


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1]), sys.argv[2:]))
