"""The quarantine shows what was sent as JSON: an id that JSON writes otherwise than it is goes from there as well."""

from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.store import erasing
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
IDS = ['canary"7f3a', "canary\\7f3a", "canary\t7f3a", "canaryé\"'7f3a", "canary😀7f3a"]
_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("clickhouse", "cluster")]


@pytest.fixture(params=["duckdb", "postgres", "chdb", *_SLOW])
def engine(request, tmp_path):
    url = tmp_path / "x.duckdb"
    if request.param != "duckdb":
        url = embedded.url() if request.param == "chdb" else request.getfixturevalue(request.param).url()
    with gnomon.open(url, data_dir=str(tmp_path / "data"), clock=ManualClock(NOW), sampling=False,
                     rollup_lag_seconds=0) as opened:  # fmt: skip
        yield opened


def left(engine, id_):
    """What the quarantine shows after somebody was forgotten who stood there in every way."""
    engine.track("t", user_id="other", ts=NOW - timedelta(days=5))
    engine.flush()
    engine.set_retention_policy(raw_data_days=2)
    engine.prune()
    engine.track("t", user_id=id_, ts=NOW - timedelta(days=5))  # sealed: the row as JSON
    engine.track("t", user_id="other", properties={"a": [id_]}, ts=NOW - timedelta(days=5))
    engine.track("", user_id=id_)  # refused: the call as JSON
    engine.track("", user_id=id_, properties={"n": float("nan"), (1, 2): id_})  # and as Python writes it
    engine.track("", user_id="other")
    engine.flush()
    assert ["canary" in row["event"] for row in engine.quarantine()].count(True) == 4
    assert engine.forget(id_).quarantined == 4
    return [row["event"] for row in engine.quarantine()]


@pytest.mark.parametrize("id_", IDS)
def test_an_id_that_json_writes_otherwise_is_forgotten(engine, tmp_path, id_):
    (other,) = left(engine, id_)
    assert "other" in other
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"canary" not in file.read_bytes(), file.name


def test_a_look_for_the_plain_id_only_is_found(engine, monkeypatch):
    monkeypatch.setattr(erasing, "_shown", lambda text: {text})
    with pytest.raises(AssertionError):
        left(engine, IDS[0])
