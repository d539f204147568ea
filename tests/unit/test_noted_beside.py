"""What the service notes beside the calls is tried again when it cannot be kept, and nothing of it is forgotten."""

from __future__ import annotations

import pytest

import gnomon
from gnomon.client.outbox import Limits, Outbox
from gnomon.client.posting import Sent
from gnomon.errors import DiskFull
from gnomon.server.names import KnownNames
from gnomon.server.sums import IngestSums


def refuse(*_, **__):
    raise DiskFull("no room", remedy="Free disk space.")


def test_sums_of_ingestion_that_the_audit_refuses_are_written_with_the_next(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        sums = IngestSums(engine)
        for project, n in (("default", 3), ("other", 5)):
            sums.add(project, "ann", "10.0.0.1", n, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine._audit, "audited", refuse)
            with pytest.raises(DiskFull):
                sums.write(all=True)
        sums.add("default", "ann", "10.0.0.2", 4, 0)
        sums.write(all=True)
        sums.write(all=True)
        (entry,) = [one for one in engine.get_access_log() if one.operation == "ingest"]
        assert (entry.rows, entry.detail["calls"], entry.detail["rejected"]) == (7, 2, 1)
        assert entry.detail["from"] == ["10.0.0.1", "10.0.0.2"]


def test_names_that_could_not_be_kept_are_kept_later(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        journal = engine._hold.journal
        names = KnownNames(engine.settings, journal)
        names.vet({"type": "a", "properties": {"k": 1}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal, "keep_instead", refuse)
            with pytest.raises(DiskFull):
                names.save(now=True)
        names.save(now=True)
        again = KnownNames(engine.settings, journal)
        assert (again._types, again._keys) == ({"a"}, {"k"})


class Post:
    """Breaks in a way that nobody expected, then takes everything."""

    def __init__(self) -> None:
        self.calls, self.taken = 0, []

    def send(self, batch):
        self.calls += 1
        if self.calls < 3:
            raise MemoryError
        self.taken += batch
        return Sent()

    def stop(self):
        """Nothing to stop."""


def test_a_batch_whose_sending_breaks_goes_back_into_the_buffer():
    post = Post()
    outbox = Outbox(post, Limits(batch_events=2, flush_seconds=0.02), None)
    for n in range(5):
        outbox.put(b"%d" % n)
    assert outbox.wait(10.0)
    assert post.taken == [b"0", b"1", b"2", b"3", b"4"]
    told = outbox.delivery()
    assert told.closes() and told.acknowledged == 5 and not outbox._bytes
    outbox.close()


def test_positions_that_come_out_of_order_do_not_turn_back():
    with gnomon.open(":memory:") as engine:
        for position in (3, 9, 4):
            engine._reached(position)
        assert engine._last_position == 9
        engine._last_position = 0
