"""Recording inside a host program: a call puts one tuple into a buffer, a thread carries the buffer to the journal.

A recording call never raises into the host, never blocks on disk and never grows memory without bound: a full buffer
sheds, and what was shed is counted. A forked child starts with an empty buffer, as the parent still holds its own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from gnomon.config import Settings
from gnomon.errors import EngineClosed
from gnomon.event import Batch, Row, sources_of
from gnomon.ingest.calls import Call
from gnomon.ingest.gate import Admitted, Gate, Refused, source_of
from gnomon.ingest.heartbeat import Heartbeat
from gnomon.ingest.journal import Journal
from gnomon.ingest.sampling import Sampler
from gnomon.ingest.thresholds import Policy

#: Events in one journal batch: each step over it keeps the interpreter for a millisecond or two at most.
BATCH_EVENTS = 5_000

#: Rounds without any event after which the background thread sleeps until the next one.
QUIET_ROUNDS = 5

#: A batch from outside is taken to have been collected within this time, or since the one before it.
MOST_SPREAD_NS = 60_000_000_000

_NEVER = object()

#: Called with the positions of batches that are durable, and the batches themselves.
OnDurable = Callable[[list[int], list[Batch]], None]


class Collector:
    """Buffers calls for one project and moves them through the gate into the journal.

    A background thread starts with the first call. It sleeps while nothing is recorded, writes `flush_seconds`
    after the first waiting event and at once when `flush_events` wait.
    """

    strict = False  #: `gnomon.testing` sets this: a recording call then raises what the gate refuses

    def __init__(self, settings: Settings, project: str, clock_us: Callable[[], int], journal: Journal,
                 on_durable: OnDurable, now_ns: Callable[[], int] = time.time_ns) -> None:  # fmt: skip
        self._settings = settings
        self._project = project
        self._clock_us = clock_us
        self._now_ns = now_ns
        self._gate = Gate(settings, clock_us)
        self._journal = journal
        self._on_durable = on_durable
        self._closed = False
        self._heart = Heartbeat(settings, clock_us)
        self._last_position = 0
        self._reset()

    def _reset(self) -> None:
        """Fresh buffers and locks: at the start, and in a forked child."""
        self._buffer: deque[Any] = deque()  # of calls.Call
        self._samples: deque[Row] = deque()
        self._append_sample = self._samples.append
        self._append = self._buffer.append if self._settings.enabled else _ignore
        self._busy_at = 0 if self._settings.enabled else 2**62  # a buffer this long takes the slow way
        self._policy = Policy(self._settings, self._project, self._journal)
        self._sampler = Sampler(self._settings, self._project)
        self._shed: Counter[tuple[str, str, str | None]] = Counter()
        # Re-entrant, as a recording call may come out of a garbage collection inside another one.
        self._shed_lock = threading.RLock()
        self._flush_lock = threading.RLock()
        self._reached_lock = threading.Lock()
        self._sampling_lock = threading.RLock()  # events also come in over HTTP, on threads of their own
        self._whole_at_ns = 0  # when the last whole batch came
        # What is on its way: calls, samples, and the batch once it is made of them. Always replaced whole, as a signal
        # may raise in the main thread between any two steps, and what is in hand may be that of other threads.
        self._turn: tuple[list[Row], list[Row], Batch | None] = ([], [], None)
        self._thread: threading.Thread | None = None
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: at once; its put() is re-entrant
        self._stop = threading.Event()

    # -- recording: about a microsecond, on the caller's thread -------------------------------------------------

    def track(self, type: str, *, user_id: str | None = None, device_id: str | None = None,
              session_id: str | None = None, source: str | None = None, application: str | None = None,
              domain: str | None = None, endpoint: str | None = None, method: str | None = None,
              status_code: int | None = None, duration_ms: float | None = None, bytes_sent: int | None = None,
              bytes_received: int | None = None, success: bool | None = None, error_code: str | None = None,
              weight: float = 1.0, properties: Mapping[str, Any] | None = None, id: str | None = None,
              ts: datetime | str | None = None) -> None:  # fmt: skip
        """Record one event. Returns at once and never raises; a bad event goes to quarantine with its reason.

        `ts` is an aware datetime or ISO text with a zone (default: now); `id` makes repeats count once (default: a
        new UUIDv7). `properties` is copied one level deep; nested values must not be changed afterwards.
        """
        try:
            if len(self._buffer) >= self._busy_at and self._crowded(source):
                return
            if properties is not None:
                properties = {**properties}
            self._append(Call(type, user_id, device_id, session_id, source, application, domain, endpoint, method,
                          status_code, duration_ms, bytes_sent, bytes_received, success, error_code, weight,
                          properties, id, ts, self._now_ns(), None))  # fmt: skip
        except Exception:
            if self.strict:
                raise
            self._lost("recorder-fault", source)

    def record_request(self, *, source: str | None = None, application: str | None = None, url: str | None = None,
                       method: str | None = None, status_code: int | None = None, duration_ms: float | None = None,
                       bytes_sent: int | None = None, bytes_received: int | None = None, success: bool | None = None,
                       error_code: str | None = None, user_id: str | None = None, device_id: str | None = None,
                       session_id: str | None = None, domain: str | None = None, endpoint: str | None = None,
                       id: str | None = None, ts: datetime | str | None = None,
                       properties: Mapping[str, Any] | None = None, type: str = "request",
                       weight: float = 1.0) -> None:  # fmt: skip
        """Record one request. Like `track`; `url` gives domain and endpoint (never its credentials or query)."""
        try:
            if len(self._buffer) >= self._busy_at and self._crowded(source):
                return
            if properties is not None:
                properties = {**properties}
            self._append(Call(type, user_id, device_id, session_id, source, application, domain, endpoint, method,
                          status_code, duration_ms, bytes_sent, bytes_received, success, error_code, weight,
                          properties, id, ts, self._now_ns(), url))  # fmt: skip
        except Exception:
            if self.strict:
                raise
            self._lost("recorder-fault", source)

    def record_metric(self, name: str, value: float, *, kind: str = "gauge", labels: Mapping[str, Any] | None = None,
                      ts: datetime | str | None = None, id: str | None = None) -> None:  # fmt: skip
        """Record one metric sample; `kind` is counter, gauge or histogram. Returns at once and never raises.

        `id` makes repeats count once (default: none, every sample counts).
        """
        if not self._settings.enabled:
            return
        try:
            if len(self._buffer) >= self._busy_at:
                self._crowded(None, count=False)
            if len(self._samples) >= self._settings.buffer_events:
                self._lost("buffer-full", None, kind="sample")
                return
            copied = None if labels is None else {**labels}
            self._append_sample((name, value, kind, copied, ts, self._now_ns(), id))
        except Exception:
            if self.strict:
                raise
            self._lost("recorder-fault", None, kind="sample")

    def _crowded(self, source: Any, count: bool = True) -> bool:
        """The slow way of a call: start or wake the thread; True if the event was shed because the buffer is full."""
        waiting = len(self._buffer)
        if self._closed:
            self._lost("closed", source)
            return True
        if self._thread is None:
            self._start_thread()
        if waiting >= self._settings.buffer_events:
            if count:
                self._lost("buffer-full", source)
            return count
        if waiting >= self._settings.flush_events:
            self._busy_at = self._settings.buffer_events
            self._bell.put(True)
        else:
            self._busy_at = min(self._settings.flush_events, self._settings.buffer_events)
            self._bell.put(False)
        return False

    def _lost(self, reason: str, source: Any, kind: str = "event") -> None:
        with self._shed_lock:
            self._shed[kind, reason, source_of(source)] += 1

    # -- carrying: the background thread, or whoever calls flush -------------------------------------------------

    def _start_thread(self) -> None:
        with self._shed_lock:  # not the lock of flushing, which may wait for the disk
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._carry, name="gnomon-collector", daemon=True)
                self._thread.start()

    def _carry(self) -> None:
        wait = self._settings.flush_seconds
        quiet = 0
        while not self._closed:
            self._sleep()
            try:
                quiet = 0 if self._drain() else quiet + 1
            except Exception:  # noqa: BLE001  the thread must survive whatever a hostile value or a disk does
                self._stop.wait(wait)  # kept in memory and tried again; flush() tells who asks
                wait = min(5.0, wait * 2)
                self._bell.put(True)
            else:
                wait = self._settings.flush_seconds
                if quiet < QUIET_ROUNDS:  # a caller rings before it appends, so look again before sleeping
                    self._bell.put(False)

    def _sleep(self) -> None:
        """Until the first event waits or a beat may be due, then for the rest of its flush time or until many wait."""
        try:
            hurry = self._bell.get(timeout=self._heart.look_seconds)
        except queue.Empty:
            return
        until = time.monotonic() + self._settings.flush_seconds
        while not hurry and not self._closed:
            try:
                hurry = self._bell.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return

    def _drain(self) -> bool:
        """Move everything that waits into the journal; whether there was anything.

        Raises what the journal raises; nothing is lost then.
        """
        found = False
        with self._flush_lock:
            if self._settings.enabled:
                self._busy_at = 0
            for _ in range(max(len(self._buffer), len(self._samples)) // BATCH_EVENTS + 2):
                self._send()
                try:
                    batch = self._next_batch()
                except Exception:
                    calls, _, _ = self._turn  # gone, so that the books must say it
                    self._turn = ([], [], None)
                    for _ in calls:
                        self._lost("recorder-fault", None)
                    raise
                if batch is None:
                    return found
                found = True
                self._turn = ([], [], batch)
                self._noted(batch)
            self._send()
            return found

    def _send(self) -> None:
        batch = self._turn[2]
        if batch is None:
            return
        try:
            positions = self._journal.append([batch])
            self._reached(positions[-1])
            self._turn = ([], [], None)
        except BaseException:
            batch.replayed = True  # it may be there all the same
            raise
        self._on_durable(positions, [batch])

    def _reached(self, position: int) -> None:
        """Everything up to a position is durable, for `flush()` to wait for. Threads may tell it out of order."""
        with self._reached_lock:
            self._last_position = max(self._last_position, position)

    def _next_batch(self) -> Batch | None:
        calls, samples, _ = self._turn
        _top_up(calls, self._buffer, BATCH_EVENTS)
        _top_up(samples, self._samples, BATCH_EVENTS)
        recorded = bool(calls or samples or self._shed)
        if not recorded and not self._heart.due(recorded=False):
            return None
        batch = Batch(self._project)
        if calls:
            admitted = self._admit(calls)
            batch_from(batch, admitted, self._clock_us())
            self._thin(batch, _times(calls, admitted.refused))
        if samples:
            self._add_samples(batch, samples)
        with self._shed_lock:
            shed, self._shed = self._shed, Counter()
        for (kind, reason, source), n in shed.items():
            batch.counts += [[kind, source, "received", "", n], [kind, source, "shed", reason, n]]
        if self._heart.due(recorded=recorded):
            batch.beats = self._heart.take()
        return batch

    def _thin(self, batch: Batch, at: Callable[[int], int]) -> None:
        if self._settings.sampling:
            thresholds = self._policy.look()
            with self._sampling_lock:
                if self._policy.anew():
                    self._sampler.note_again()
                self._sampler.thin(batch, at, thresholds)

    def _thin_whole(self, batch: Batch) -> None:
        """As `_thin`, for a batch that others collected: it came since the one before, at the most for a minute.

        Its rows arrived in one moment, which tells nothing of the pace at which they happened.
        """
        now_ns = self._now_ns()
        with self._sampling_lock:
            since, self._whole_at_ns = max(self._whole_at_ns, now_ns - MOST_SPREAD_NS), now_ns
            step = max(0, now_ns - since) / max(1, len(batch.rows))
            self._thin(batch, lambda place: since + int(step * (place + 1)))

    def _noted(self, batch: Batch) -> None:
        if batch.sightings:
            with self._sampling_lock:
                self._sampler.noted(batch.sightings)

    def _own_span(self) -> tuple[int, int] | None:
        """Since when this engine has been there to record, and now; None where it cannot."""
        return self._heart.span()

    def _beat(self) -> bool:
        """Say that this engine is there, if that is due; whether it was. Raises what the journal raises."""
        if self._closed or not self._heart.due(recorded=False):
            return False
        batch = Batch(self._project, beats=self._heart.take())
        try:
            positions = self._journal.append([batch])
        except BaseException:
            self._heart.give_back(batch.beats)
            raise
        self._on_durable(positions, [batch])
        return True

    def _admit(self, calls: list[Row]) -> Admitted:
        """What the gate makes of the calls. One value that breaks the gate itself must not take the others along."""
        try:
            return self._gate.admit_calls(calls)
        except Exception:  # noqa: BLE001  a value may raise from any of its own methods
            whole = Admitted()
            for call in calls:
                try:
                    whole.add(self._gate.admit_calls([call]))
                except Exception:  # noqa: BLE001  as above
                    self._lost("recorder-fault", None)
            return whole

    def _add_samples(self, batch: Batch, samples: list[Row]) -> None:
        batch.samples, refused = self._admit_samples(samples)
        batch.counts.append(["sample", None, "received", "", len(batch.samples) + len(refused)])
        note_refused(batch, refused, self._clock_us(), "sample")

    def _admit_samples(self, samples: list[Row]) -> tuple[list[Row], list[Refused]]:
        """As `_admit`, for metric samples."""
        try:
            return self._gate.admit_samples(samples)
        except Exception:  # noqa: BLE001  as above
            rows: list[Row] = []
            refused: list[Refused] = []
            for sample in samples:
                try:
                    passed, stopped = self._gate.admit_samples([sample])
                except Exception:  # noqa: BLE001  as above
                    self._lost("recorder-fault", None, kind="sample")
                else:
                    rows += passed
                    refused += stopped
            return rows, refused

    def _note_again(self) -> None:
        """People whom sampling has left out were erased, or taken back by a restore: those who come again are new."""
        with self._flush_lock, self._sampling_lock:
            self._sampler.note_again()

    def _stop_thread(self) -> None:
        self._stop.set()
        self._bell.put(True)
        if self._thread is not None:
            self._thread.join()

    def waiting(self) -> Counter[str | None]:
        """Events recorded but not yet durable, by source."""
        calls, _, batch = self._turn
        found = Counter(source_of(call.source) for call in [*calls, *self._buffer])
        found.update(sources_of(batch.rows if batch is not None else ()))
        return found

    def _make_durable(self) -> int:
        """Carry everything to the journal now; returns the last position this process wrote."""
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        self._drain()
        return self._last_position


def batch_from(batch: Batch, admitted: Admitted, now_us: int) -> None:
    """Put what the gate admitted and refused into a journal batch, with its counts for the books."""
    batch.rows = admitted.rows
    batch.checked_ids = admitted.checked_ids
    batch.counts += [["event", source, "received", "", n] for source, n in admitted.received.items()]
    note_refused(batch, admitted.refused, now_us, "event")


def _times(calls: list[Row], refused: list[Refused]) -> Callable[[int], int]:
    """When the admitted ones among the calls were recorded, by their place; in nanoseconds."""
    left: list[Any] = calls
    if refused:
        gone = {item.index for item in refused}
        left = [call for place, call in enumerate(calls) if place not in gone]
    return lambda place: left[place].at_ns


def note_refused(batch: Batch, refused: list[Refused], now_us: int, kind: str) -> None:
    """Put refusals into a batch, for the quarantine and the books."""
    batch.refused += [[now_us, r.code, r.detail, r.source, r.id, r.text] for r in refused]
    counted = Counter((r.source, r.code) for r in refused)
    batch.counts += [[kind, source, "rejected", code, n] for (source, code), n in counted.items()]


def _top_up(hand: list[Row], queue: deque[Row], most: int) -> None:
    """Move items from the queue to the hand, all of them in one step of the interpreter."""
    hand.extend(islice(iter(queue.popleft, _NEVER), min(len(queue), most - len(hand))))


def _ignore(_call: Any) -> None:
    """What recording does when Gnomon is switched off."""
