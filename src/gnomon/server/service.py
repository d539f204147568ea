"""What one app is made of besides its routes: the engines of its projects, who may come in, and the way in."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from fastapi import Request

from gnomon.engine import AnalyticsEngine
from gnomon.errors import GnomonError
from gnomon.ingest.intake import Rule
from gnomon.ingest.typerules import RuleBook
from gnomon.query.books import projects_of
from gnomon.server.auth import Tokens
from gnomon.server.callers import ANY_PROJECT, Caller, presented, unauthorized
from gnomon.server.figures import Figures
from gnomon.server.intake import Intake
from gnomon.server.keys import WriteKeys, looks_like_key
from gnomon.server.limits import Limiter
from gnomon.server.names import KnownNames
from gnomon.server.projects import Projects
from gnomon.server.sums import IngestSums, Refusals
from gnomon.upkeep.alerts import Condition, Found, Sight
from gnomon.upkeep.jobs import run_due
from gnomon.upkeep.workers import left_to_workers

log = logging.getLogger("gnomon.server")

TICK_SECONDS = 1.0
JOBS_SECONDS = 60.0
MOST_RULES = 1_000  #: projects whose rules and names are kept in memory


class Service:
    """Made once an app; `close()` closes what it opened, and the engine too where it `owns` that."""

    def __init__(self, engine: AnalyticsEngine, *, owns: bool) -> None:
        self.settings = engine.settings
        self.projects = Projects(engine)
        self.tokens = Tokens(engine.settings, engine.clock)
        self.keys = WriteKeys(engine._hold.journal)
        self.limiter = Limiter(engine.settings)
        self.intake = Intake(self.projects, engine.settings.max_in_flight_bytes)
        self.sums, self.refusals = IngestSums(engine), Refusals(engine)
        self.figures = Figures(engine, self.intake)
        self._rules: OrderedDict[str, tuple[RuleBook, KnownNames]] = OrderedDict()
        self._rules_lock = threading.Lock()
        self._owns = owns
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._closed = False
        self._refused_before = 0
        engine._before_close.append(self.close)  # nor when it ends
        engine._hold.before_erasing.append(self._write_sums)
        self._refusing = Condition("calls-refused", "the service answered 503 or 507", True, self._refused)
        self._watch = engine._watch()
        self._watch.extra.append(self._refusing)

    # -- who comes in ----------------------------------------------------------------------------------------------

    async def admit(self, request: Request) -> Caller:
        """Who makes a call, counted against its limits, without blocking the event loop. Raises `Problem`."""
        if self.limiter.remote:
            return await asyncio.to_thread(self.admitted, request)
        return self.admitted(request)

    def admitted(self, request: Request) -> Caller:
        """Who makes a call, counted against its limits. Raises `Problem` (401, 429)."""
        if self._thread is None:
            self.start()  # an app that is mounted in another is not told when it starts
        address = self.address(request)
        self.limiter.check_address(address)
        caller = self._known(presented(request))
        if caller.project != ANY_PROJECT:
            request.state.project = caller.project  # for the log
        own = caller.principal.name if caller.key_id is None else f"{caller.principal.name} {address}"
        request.state.limit_headers = self.limiter.check_principal(f"{caller.project} {own}")
        return caller

    def _known(self, text: str) -> Caller:
        caller = None
        if looks_like_key(text):
            caller = self.keys.caller(text)
        elif text:
            caller = self.tokens.caller(text)
        if caller is None:
            raise unauthorized()
        return caller

    def address(self, request: Request) -> str:
        """Where a call comes from, as far as the server believes it (`trusted_proxies`)."""
        return request.client.host if request.client else "unknown"

    # -- what may come in ------------------------------------------------------------------------------------------

    def rule_book(self, engine: AnalyticsEngine) -> RuleBook:
        """The types that the engine's project takes. Raises what the journal raises."""
        return self._of(engine)[0].look()

    def rules(self, engine: AnalyticsEngine) -> Sequence[Rule]:
        """What a project asks of events from outside, besides the rules of the gate."""
        book, names = self._of(engine)
        return [book.look(), names]

    def _of(self, engine: AnalyticsEngine) -> tuple[RuleBook, KnownNames]:
        project, journal = engine.settings.project, engine._hold.journal
        with self._rules_lock:
            found = self._rules.get(project)
            if found is None:
                found = self._rules[project] = (RuleBook(project, journal), KnownNames(engine.settings, journal))
            self._rules.move_to_end(project)
            while len(self._rules) > MOST_RULES:
                self._rules.popitem(last=False)[1][1].save(now=True)
        return found

    # -- beside the calls ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the work that goes on beside the calls; nothing where it goes on already."""
        with self._start_lock:
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(target=self._tick, name="gnomon-service", daemon=True)
                self._thread.start()

    def _tick(self) -> None:
        jobs_at = time.monotonic() + JOBS_SECONDS
        while not self._ending.wait(TICK_SECONDS):
            self._settle()
            self._look_back()
            if self.settings.scheduler and time.monotonic() >= jobs_at:
                self._run_jobs()
                jobs_at = time.monotonic() + JOBS_SECONDS

    def _run_jobs(self) -> None:
        """The background work of every other project; the scheduler of `home` does its own, and that of the store."""
        home = self.projects.home
        try:
            for project in projects_of(home._own_or_refuse(), self.settings.query_timeout_seconds):
                if project != home.settings.project and not self._ending.is_set():
                    with self.projects.using(project) as engine:
                        run_due(engine, whole_store=False, here_only=left_to_workers(engine))
                        engine._look_for_alerts(whole_store=False)
        except Exception as error:  # noqa: BLE001  as below
            log.warning("the jobs of some projects were left out: %s", type(error).__name__)

    def _refused(self, _sight: Sight) -> Found | None:
        """Whether senders were sent away since the last look."""
        before, self._refused_before = self._refused_before, self.figures.refused()
        if self._refused_before == before:
            return None
        return Found("warning", f"{self._refused_before - before:,} calls were answered with 503 or 507 lately",
                     "See `gnomon doctor`: the journal or the disk is full, or too much comes at once.")  # fmt: skip

    def _look_back(self) -> None:
        """A step of one project's names that are in the store already."""
        with self._rules_lock:
            waiting = [names for _, names in self._rules.values() if not names.looked]
        if not waiting:
            return
        try:
            waiting[0].look_back(self.projects.home._own_or_refuse())
        except GnomonError as error:  # another process owns the store, or it is not there at the moment
            log.debug("the names in the store are looked at later: %s", error.code)
        except Exception as error:  # noqa: BLE001  as below
            log.warning("the names in the store are looked at later: %s", type(error).__name__)

    def _write_sums(self, *, all: bool = True) -> None:
        self.sums.write(all=all)
        self.refusals.write(all=all)

    def _settle(self, *, all: bool = False) -> None:
        with self._rules_lock:
            known = [names for _, names in self._rules.values()]
        saves = [partial(names.save, now=all) for names in known]
        for keep in [partial(self._write_sums, all=all), *saves]:
            try:
                keep()
            except Exception as error:  # noqa: BLE001  the thread must live on; what could not be kept is tried again
                log.warning("the service could not keep what it noted: %s", type(error).__name__)

    def close(self) -> None:
        """Make everything durable and let go of the files. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self.projects.home._hold.before_erasing.remove(self._write_sums)
        self._watch.extra.remove(self._refusing)
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self.intake.stop()
        self._settle(all=True)
        self.figures.stop()
        self.projects.close()
        if self._owns:
            self.projects.home.close()
