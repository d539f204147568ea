"""The threads that take bodies in: unpack, decode, gate, journal. Calls that meet share one commit, small ones a batch.

The event loop only reads bodies and waits. At most `max_in_flight_bytes` are worked on at a time; more are refused
with a 503 before they are read, so memory stays bounded whatever comes in.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from gnomon.engine import AnalyticsEngine
from gnomon.errors import DiskFull, GnomonError, StoreUnavailable
from gnomon.ingest.calls import WireCalls
from gnomon.ingest.gate import Refused
from gnomon.ingest.intake import Rule, Taken, keep, take_events, take_samples, take_together, usual_of
from gnomon.server.projects import Projects
from gnomon.server.wire import Loose, decoded, decoded_slowly, gathered, is_list, loose, unpacked

log = logging.getLogger("gnomon.server")

THREADS = 3  #: one decodes while another waits for the disk
MOST_JOBS = 64  #: that share a commit
MOST_BYTES = 1024**2  #: of their bodies; a larger one goes alone
SMALL_BYTES = 16 * 1024  #: a smaller body may share its batch with others
#: What a project asks of a sender's events. Equal ones are asked for only once.
Rules: TypeAlias = Callable[[AnalyticsEngine], Sequence[Rule]]
OVERHEAD_BYTES = 4_096  #: what a call costs besides its body


@dataclass(slots=True)
class Job:
    """One body on its way, and where its answer goes. `rules(engine)` are the rules of the sender."""

    project: str
    body: bytes
    encoding: str
    samples: bool
    rules: Rules
    loop: asyncio.AbstractEventLoop
    done: Callable[[Outcome | BaseException], None]  #: called on the loop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a body: how many events were accepted, which were refused, and whether it was a single one."""

    accepted: int
    refused: list[Refused]
    alone: bool


class Intake:
    """Owned by the service; the threads start with the first body."""

    def __init__(self, projects: Projects, most_bytes: int) -> None:
        self._projects = projects
        self._most_bytes = most_bytes
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        #: Threads that decode at a time only take the interpreter, and the processor's cache, from each other.
        self._deciding = threading.Lock()
        self._gathering = False  #: a thread is at work on small bodies; those that come meanwhile wait for it
        self.on_kept: Callable[[int, float], None] = lambda position, began: None
        self.in_flight = 0  #: bytes; only the event loop changes it

    def reserve(self, size: int) -> None:
        """Count a body in before it is read. Raises `StoreUnavailable` (overloaded) beyond the limit."""
        if self._stopping:
            raise StoreUnavailable("the service is ending", remedy="Send it again in a moment.", code="stopping")
        if self.in_flight + size + OVERHEAD_BYTES > self._most_bytes:
            raise StoreUnavailable("too much is being taken in at the moment", remedy="Send it again a little later.",
                                   code="overloaded")  # fmt: skip
        self.in_flight += size + OVERHEAD_BYTES

    def release(self, size: int) -> None:
        """The end of `reserve`."""
        self.in_flight -= size + OVERHEAD_BYTES

    async def take(self, project: str, body: bytes, encoding: str, rules: Rules,
                   samples: bool = False) -> Outcome:  # fmt: skip
        """Make the events of a body durable. Raises `Problem` for a body that cannot be read, and the journal's errors.

        A caller that goes away does not stop it: what was begun is done.
        """
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.submit(project, body, encoding, rules, samples, partial(_settle, waiting))
        return await waiting

    def submit(self, project: str, body: bytes, encoding: str, rules: Rules, samples: bool,
               done: Callable[[Outcome | BaseException], None]) -> None:  # fmt: skip
        """As `take`, on an event loop that runs; `done` is called there with what became of the body."""
        job = Job(project, body, encoding, samples, rules, asyncio.get_running_loop(), done)
        with self._changed:
            self._jobs.append(job)
            if len(self._threads) < THREADS:
                self._start_thread()
            if not (self._gathering and len(body) <= SMALL_BYTES):
                self._changed.notify()

    def stop(self) -> None:
        """Finish what is there and end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="gnomon-intake", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                if not self._jobs:
                    return
                jobs = self._next()
                gathering = not self._gathering and max(len(job.body) for job in jobs) <= SMALL_BYTES
                self._gathering |= gathering
            self._work(jobs)
            if gathering:  # and what has come meanwhile is this thread's, as nobody was woken for it
                with self._changed:
                    self._gathering = False

    def _next(self) -> list[Job]:
        """The jobs that will share a commit. The lock is held."""
        jobs, size = [self._jobs.popleft()], 0
        size = len(jobs[0].body)
        while self._jobs and len(jobs) < MOST_JOBS and size + len(self._jobs[0].body) <= MOST_BYTES:
            size += len(self._jobs[0].body)
            jobs.append(self._jobs.popleft())
        return jobs

    def _work(self, jobs: list[Job]) -> None:
        """Carry jobs through; every one gets an answer, whatever happens."""
        answers: dict[int, Outcome | BaseException] = {}
        try:
            with ExitStack() as engines:
                self._commit(jobs, engines, answers)
        except BaseException as error:  # noqa: BLE001  the journal's error is the answer of all that shared the commit
            answers = {place: answers.get(place, error) for place in range(len(jobs))}
        for loop in {job.loop for job in jobs}:
            own = [(job, answers[place]) for place, job in enumerate(jobs) if job.loop is loop]
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_answer, own)

    def _commit(self, jobs: list[Job], engines: ExitStack, answers: dict[int, Outcome | BaseException]) -> None:
        taken: list[Taken] = []
        outcomes: dict[int, Outcome] = {}
        small = sum(len(job.body) for job in jobs) <= MOST_BYTES
        with self._deciding if small else nullcontext():
            self._decide(jobs, engines, taken, outcomes, answers)
        kept = [found for found in taken if found.accepted or found.refused]
        if kept:
            began = time.monotonic()
            try:
                position = keep(kept)
            except DiskFull as error:
                raise self._full(error) from error
            self.on_kept(position, began)
        answers.update(outcomes)

    def _decide(self, jobs: list[Job], engines: ExitStack, taken: list[Taken], outcomes: dict[int, Outcome],
                answers: dict[int, Outcome | BaseException]) -> None:  # fmt: skip
        """What of the bodies is accepted: small ones of a project in one batch, each other in its own."""
        small: dict[str, dict[int, Loose]] = {}
        known: dict[str, AnalyticsEngine] = {}
        for place, job in enumerate(jobs):
            try:
                engine = known.get(job.project)
                if engine is None:
                    engine = known[job.project] = engines.enter_context(self._projects.using(job.project))
                found = _loose(engine, job) if len(jobs) > 1 else None
                if found is not None:
                    small.setdefault(job.project, {})[place] = found
                    continue
                one, outcomes[place] = _taken(engine, job)
                taken.append(one)
            except Exception as error:  # noqa: BLE001  one body must not take the others along
                answers[place] = error
        for project, parts in small.items():
            self._share(known[project], jobs, parts, taken, outcomes, answers)

    def _share(self, engine: AnalyticsEngine, jobs: list[Job], parts: dict[int, Loose], taken: list[Taken],
               outcomes: dict[int, Outcome], answers: dict[int, Outcome | BaseException]) -> None:  # fmt: skip
        """One batch for small bodies of a project; one for each where an event of them does not pass."""
        passed: dict[tuple[int, ...], WireCalls] = {}
        try:
            passed = _passed(engine, jobs, parts)
            together = take_together(engine, [*passed.values()]) if passed else None
        except Exception:  # noqa: BLE001  one body must not take the others along
            together = None
        shared = {place for places in passed for place in places} if together is not None else set()
        if together is not None:
            taken.append(together)
            outcomes.update((place, Outcome(len(parts[place].events), [], parts[place].alone)) for place in shared)
        for place in [place for place in parts if place not in shared]:
            try:
                one, outcomes[place] = _taken(engine, jobs[place])
                taken.append(one)
            except Exception as error:  # noqa: BLE001  as above
                answers[place] = error

    def _full(self, error: DiskFull) -> GnomonError:
        """A journal at its own limit waits for the store, which is no full disk."""
        home = self._projects.home
        if home._journal.leaves(home.settings.max_unpacked_bytes):
            return error
        return StoreUnavailable("the journal is at its limit, as the store takes nothing", code="journal-full",
                                remedy="Send it again later; see journal_max_bytes and `gnomon doctor`.")  # fmt: skip


def _answer(answers: list[tuple[Job, Outcome | BaseException]]) -> None:
    for job, answer in answers:
        try:
            job.done(answer)
        except Exception:  # one caller must not take the answers of the others along
            log.exception("an answer could not be given")


def _settle(waiting: asyncio.Future[Outcome], answer: Outcome | BaseException) -> None:
    if waiting.done():
        return  # the caller went away
    if isinstance(answer, BaseException):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)


def _loose(engine: AnalyticsEngine, job: Job) -> Loose | None:
    """The events of a small body that looks usual; else None."""
    if job.samples or len(job.body) > SMALL_BYTES:
        return None
    body = unpacked(job.body, job.encoding, engine.settings)
    return loose(body, not is_list(body), engine.settings) if len(body) <= SMALL_BYTES else None


def _passed(engine: AnalyticsEngine, jobs: list[Job], parts: dict[int, Loose]) -> dict[tuple[int, ...], WireCalls]:
    """The calls of small bodies of which none is unusual, by their places: all of equal rules at once, else each."""
    by_rules: dict[Rules, list[int]] = {}
    for place in parts:
        by_rules.setdefault(jobs[place].rules, []).append(place)
    found: dict[tuple[int, ...], WireCalls] = {}
    for rules, places in by_rules.items():
        asked = rules(engine)
        for group in ([places], [[place] for place in places]):
            for some in group:
                calls = gathered([parts[place] for place in some])
                usual = None if calls is None else usual_of(calls, asked)
                if usual is not None:
                    found[tuple(some)] = usual
            if tuple(places) in found:
                break
    return found


def _taken(engine: AnalyticsEngine, job: Job) -> tuple[Taken, Outcome]:
    body = unpacked(job.body, job.encoding, engine.settings)
    if job.samples:
        alone = not is_list(body)
        taken = take_samples(engine, decoded_slowly(body, engine.settings))
    else:
        events, alone = decoded(body, engine.settings)
        taken = take_events(engine, events, job.rules(engine))
    return taken, Outcome(taken.accepted, taken.refused, alone)
