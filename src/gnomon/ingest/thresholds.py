"""The thresholds of sampling: from which pace on requests are left out, how many are kept then, and who says so.

Settings give the first values. Those that an admin sets are kept in the journal: they survive, and hold for every
process of the store.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import asdict, dataclass
from uuid import uuid4

import msgspec

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.ingest.journal import RESTORED, Journal

log = logging.getLogger("gnomon.sampling")

#: How often a process looks whether another one has set new thresholds.
LOOK_SECONDS = 1.0
#: The fewest events that share one decision.
LEAST_SLICE = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`low` and `high` are events a minute; `rate` is the keep probability from `high` on.

    Raises `InvalidValue` (`bad-thresholds`) unless 0 < low < high and 0 < rate <= 1.
    """

    low: float
    high: float
    rate: float

    def __post_init__(self) -> None:
        given = (self.low, self.high, self.rate)
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in given)
        if not (numbers and 0 < self.low < self.high < math.inf and 0 < self.rate <= 1):
            raise InvalidValue(
                "the thresholds of sampling need 0 < low < high and 0 < rate <= 1",
                remedy="Give low and high in events a minute, rate as the share that is kept; sampling=False is off.",
                code="bad-thresholds",
            )

    def keep(self, pace: float) -> float:
        """The keep probability at `pace` events a minute: 1 up to `low`, `rate` from `high` on, linear between."""
        if pace <= self.low:
            return 1.0
        if pace >= self.high:
            return self.rate
        return 1.0 - (1.0 - self.rate) * (pace - self.low) / (self.high - self.low)

    @property
    def slice(self) -> int:
        """How many events share one decision; the pace is that of the last five slices.

        At `low` five slices pass in a second or less, at `high` six in a tenth of one: so a step from idle to `high`
        is sampled in full within 0.1 s, a step to twice that within half the time.
        """
        return max(LEAST_SLICE, int(min(self.low / 300, self.high / 3_600)))


def thresholds_of(settings: Settings) -> Thresholds:
    """The thresholds that the settings name. Raises `InvalidValue` where they do not fit together."""
    return Thresholds(settings.sampling_low, settings.sampling_high, settings.sampling_rate)


class Policy:
    """The thresholds in force for one project: those kept in the journal, else those of the settings.

    The same look tells whether another engine has erased people or restored a backup since, see `anew`.
    """

    def __init__(self, settings: Settings, project: str, journal: Journal) -> None:
        self._given = self._known = thresholds_of(settings)
        self._key, self._erased_key = f"sampling:{project}", f"erased:{project}"
        self._past: tuple[str | None, ...] | None = None  #: the last erasure and the last restore that were seen
        self._anew = False
        self._journal = journal
        self._lock = threading.Lock()
        self._look_at = 0.0

    def look(self) -> Thresholds:
        """The thresholds in force, at most `LOOK_SECONDS` old. Never raises."""
        if time.monotonic() >= self._look_at:
            try:
                self.read()
            except GnomonError as error:
                log.warning("the thresholds of sampling stay as they are: %s", error)
            self._look_at = time.monotonic() + LOOK_SECONDS
        return self._known

    def read(self) -> Thresholds:
        """The thresholds in force now. Raises `StoreUnavailable` when the journal cannot be read."""
        with self._lock:
            kept = self._journal.all_kept()
            past = (kept.get(self._erased_key), kept.get(RESTORED))
            self._anew |= self._past not in (None, past)
            self._past, text = past, kept.get(self._key)
            self._known = self._given if text is None else self._opened(text)
            return self._known

    def set(self, thresholds: Thresholds) -> None:
        """Keep new ones: here at once, elsewhere within `LOOK_SECONDS`. Raises what the journal raises."""
        with self._lock:
            self._journal.keep(self._key, msgspec.json.encode(asdict(thresholds)).decode())
            self._known = thresholds

    def past(self) -> tuple[str | None, ...]:
        """What names the last erasure of people and the last restore, by whichever engine. Raises as `read` does."""
        self.read()
        return self._past or ()

    def anew(self) -> bool:
        """Whether people were erased, or everything was replaced, since this was asked last, as far as was looked."""
        found, self._anew = self._anew, False
        return found

    def erased(self) -> None:
        """Tell the other engines of the project that people were erased. Raises what the journal raises."""
        self._journal.keep(self._erased_key, uuid4().hex)

    def _opened(self, text: str) -> Thresholds:
        try:
            return msgspec.json.decode(text, type=Thresholds)
        except (msgspec.MsgspecError, InvalidValue):
            log.error("the kept thresholds of sampling do not read back: those of the settings hold")
            return self._given
