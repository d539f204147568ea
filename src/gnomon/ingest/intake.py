"""Events and samples that others send: through the gate, with the sender's rights, to a batch for the journal.

It is the collector's way for a batch that is there as a whole: nothing is buffered, and whoever sent it is told what
became of each event. The caller appends the batch to the journal; only then is it acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gnomon.event import Batch, Row
from gnomon.ingest.calls import CALL_USER, CALL_WEIGHT, FROM_FIELDS, ONE, WireCalls, joined
from gnomon.ingest.collector import Collector, batch_from, note_refused
from gnomon.ingest.gate import Admitted, Refused
from gnomon.ingest.rules import Refusal

_SAMPLE = ("name", "value", "kind", "labels", "ts", "id")


class Rule(Protocol):
    """Something that the events of a sender have to pass, besides the rules of the gate."""

    def vet(self, fields: dict[str, Any]) -> None:
        """Raise `Refusal` for an event that does not; fields may be filled in."""

    def passed(self, calls: WireCalls) -> WireCalls | None:
        """The calls as they go on; None: look at each event with `vet`."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What a sender may send. `subject` is the only user it may name (None: any); `weights`: its own."""

    subject: str | None
    weights: bool = False

    def vet(self, fields: dict[str, Any]) -> None:
        """Fill in the user, or raise `Refusal` for another's event or weight."""
        if self.weights:
            return
        if fields.get("weight") not in (None, 1):
            raise Refusal("foreign-weight", "weight: this sender may not weigh events")
        if self.subject is not None:
            user = fields.get("user_id")
            if user is None:
                fields["user_id"] = self.subject
            elif user != self.subject:
                raise Refusal("foreign-user", "user_id: not the user that the token is of")

    def passed(self, calls: WireCalls) -> WireCalls | None:
        """The calls with the user filled in; None where one of them may have to be refused."""
        if self.weights:
            return calls
        if any(weight is not ONE for weight in calls.given(CALL_WEIGHT)):
            return None
        if self.subject is None:
            return calls
        if not {self.subject}.issuperset(calls.given(CALL_USER)):
            return None
        return calls.with_user(self.subject)


@dataclass(slots=True)
class Taken:
    """A batch for the journal, how many of it were accepted, and what was refused."""

    collector: Collector
    batch: Batch
    accepted: int
    refused: list[Refused]


def take_events(collector: Collector, events: Sequence[Any] | WireCalls, rules: Sequence[Rule]) -> Taken:
    """A batch of events as they came in (objects, or `WireCalls`), thinned out by sampling as live ones are."""

    def vet(fields: dict[str, Any]) -> None:
        for rule in rules:
            rule.vet(fields)

    gate = collector._gate
    calls = usual_of(events, rules) if isinstance(events, WireCalls) else None
    if calls is not None:
        admitted = gate.admit_wire(calls)
    else:
        plain = map(_fields, events.rows()) if isinstance(events, WireCalls) else events
        admitted = gate.admit_fields(plain, vet=vet if rules else None)
    return _taken(collector, admitted)


def usual_of(calls: WireCalls, rules: Sequence[Rule]) -> WireCalls | None:
    """The calls as their sender may send them; None where one of them may have to be refused."""
    found: WireCalls | None = calls
    for rule in rules:
        found = None if found is None else rule.passed(found)
    return found


def take_together(collector: Collector, parts: Sequence[WireCalls]) -> Taken | None:
    """Several small bodies, each `usual_of` its sender, as one batch; None where one has an event that does not pass.

    Nothing is noted anywhere then, and each can be taken by itself.
    """
    admitted = collector._gate.admit_wire(joined(parts))
    return None if admitted.refused else _taken(collector, admitted)


def _taken(collector: Collector, admitted: Admitted) -> Taken:
    batch, accepted = Batch(collector._project), len(admitted.rows)
    batch_from(batch, admitted, collector._clock_us())
    collector._thin_whole(batch)
    return Taken(collector, batch, accepted, admitted.refused)


def _fields(call: Row) -> dict[str, Any]:
    return {name: value for name, value in zip(FROM_FIELDS, call, strict=True) if value is not None}


def take_samples(collector: Collector, samples: Sequence[Any]) -> Taken:
    """A batch of metric samples as they came in."""
    now_ns, rows, places, early = collector._now_ns(), [], [], list[Refused]()
    gate, batch = collector._gate, Batch(collector._project)
    for index, sample in enumerate(samples):
        if not isinstance(sample, dict) or not sample.keys() <= set(_SAMPLE):
            early.append(Refused(index, "unknown-field", "sample: has a field that no sample has", gate.shown(sample)))
            continue
        name, value, kind = sample.get("name"), sample.get("value"), sample.get("kind", "gauge")
        rows.append((name, value, kind, sample.get("labels"), sample.get("ts"), now_ns, sample.get("id")))
        places.append(index)
    batch.samples, late = gate.admit_samples(rows)
    refused = early + [Refused(places[r.index], r.code, r.detail, r.text, r.source, r.id) for r in late]
    batch.counts.append(["sample", None, "received", "", len(batch.samples) + len(refused)])
    note_refused(batch, refused, collector._clock_us(), "sample")
    return Taken(collector, batch, len(batch.samples), sorted(refused, key=lambda r: r.index))


def keep(taken: Sequence[Taken]) -> int:
    """Make batches of one store durable in one commit, and hand them on to it; returns the last position.

    Raises what the journal raises: nothing is acknowledged then.
    """
    collector, batches = taken[0].collector, [one.batch for one in taken]
    for one in taken:
        if one.collector._heart.due(recorded=True):
            one.batch.beats = one.collector._heart.take()
    try:
        positions = collector._journal.append(batches)
    except BaseException:
        for one in taken:
            one.collector._heart.give_back(one.batch.beats)
        raise
    for one in taken:
        one.collector._noted(one.batch)
        one.collector._reached(positions[-1])
    collector._on_durable(positions, batches)
    return positions[-1]
