"""Settings: from environment, plain names, TOML and keywords; whatever is unknown or of the wrong type is refused."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnomon
from gnomon.config import PLAIN_ALIASES, PREFIX, Settings, read_settings
from gnomon.errors import GnomonError, InvalidValue, UnknownName
from gnomon.testing import ManualClock


def test_nothing_given_means_the_defaults():
    assert read_settings({}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("GNOMON_DATABASE_URL", "x.duckdb", "database_url", "x.duckdb"),
        ("DATABASE_URL", "y.duckdb", "database_url", "y.duckdb"),
        ("MAX_BATCH_SIZE", "7", "max_batch_size", 7),
        ("EVENT_RETENTION_DAYS", "90", "event_retention_days", 90),
        ("METRICS_RETENTION_DAYS", "365", "metrics_retention_days", 365),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("GNOMON_FLUSH_SECONDS", "1.5", "flush_seconds", 1.5),
        ("GNOMON_FLUSH_SECONDS", "2", "flush_seconds", 2.0),
        ("GNOMON_TIMEZONES", "UTC, Asia/Kathmandu", "timezones", ("UTC", "Asia/Kathmandu")),
        ("GNOMON_PROJECT", "no", "project", "no"),
        ("GNOMON_PROJECT", "123", "project", "123"),
        ("GNOMON_PROJECT", "on", "project", "on"),
        ("GNOMON_EVENT_RETENTION_DAYS", "null", "event_retention_days", None),
        ("GNOMON_SAMPLING", " Off", "sampling", False),
        ("GNOMON_SAMPLED_TYPES", "request, page_view", "sampled_types", ("request", "page_view")),
        ("GNOMON_SAMPLED_TYPES", "", "sampled_types", ()),
        ("GNOMON_SAMPLING_LOW", "5", "sampling_low", 5.0),
        ("GNOMON_SAMPLING_FLOOR_PER_SOURCE", "0", "sampling_floor_per_source", 0),
    ],
)
def test_the_environment(variable, value, name, expected):
    assert getattr(read_settings({variable: value, "PATH": "/bin", "HOME": "x"}), name) == expected


@pytest.mark.parametrize("word", ["off", "no", "false", "0", "OFF", " Off ", "False"])
def test_words_for_off(word):
    assert read_settings({"GNOMON_ENABLED": word}).enabled is False


@pytest.mark.parametrize("word", ["on", "yes", "true", "1", "ON"])
def test_words_for_on(word):
    assert read_settings({"GNOMON_ENABLED": word}).enabled is True


def test_the_prefixed_name_wins_over_the_plain_one():
    assert read_settings({"DATABASE_URL": "plain", "GNOMON_DATABASE_URL": "own"}).database_url == "own"


def test_an_empty_plain_name_is_as_good_as_none():
    assert read_settings({"DATABASE_URL": "", "LOG_LEVEL": ""}) == Settings()


def test_names_that_are_read_elsewhere_are_no_settings():
    assert read_settings({"GNOMON_DATA_DIR": "/x"}) == Settings(data_dir="/x", export_dir="/x")


def test_every_alias_is_a_setting():
    assert set(PLAIN_ALIASES.values()) <= {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    "variables",
    [
        {"GNOMON_MAX_BATCH_SIZE": "many"},
        {"GNOMON_MAX_BATCH_SIZE": "1.5"},
        {"GNOMON_MAX_BATCH_SIZE": ""},
        {"GNOMON_ENABLED": "perhaps"},
        {"GNOMON_FLUSH_SECONDS": "soon"},
        {"MAX_BATCH_SIZE": "x"},
        {"GNOMON_CONFIG": "/nowhere/at/all.toml"},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(variables):
    with pytest.raises(InvalidValue) as caught:
        read_settings(variables)
    assert caught.value.code == "bad-config"


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownName, match="flush_seconds"):
        read_settings({"GNOMON_FLUSH_SECOND": "1"})
    with pytest.raises(UnknownName, match="buffer_events"):
        Settings().but(buffer_event=1)


@given(
    st.dictionaries(
        st.sampled_from([PREFIX + f.name.upper() for f in fields(Settings)] + list(PLAIN_ALIASES)),
        st.text(max_size=8),
        max_size=3,
    )
)
def test_any_environment_gives_settings_or_a_refusal(environment):
    try:
        found = read_settings(environment)
    except InvalidValue as error:
        assert error.code in ("bad-config", "unknown-name", "weak-key")
    else:
        for field in fields(Settings):
            assert isinstance(getattr(found, field.name), type(getattr(Settings(), field.name)) | int | None)


def test_a_toml_file_and_the_environment_over_it(tmp_path):
    file = tmp_path / "gnomon.toml"
    file.write_text(
        '[gnomon]\nproject = "shop"\nmax_batch_size = 5\ntimezones = ["UTC", "Europe/Paris"]\n'
        "flush_seconds = 1\nenabled = false\n"
    )
    found = read_settings({}, file)
    assert (found.project, found.max_batch_size, found.timezones, found.enabled) == (
        "shop",
        5,
        ("UTC", "Europe/Paris"),
        False,
    )
    assert read_settings({"GNOMON_CONFIG": str(file), "GNOMON_PROJECT": "other"}).project == "other"


def test_a_toml_file_without_a_table_of_our_own(tmp_path):
    file = tmp_path / "gnomon.toml"
    file.write_text('project = "shop"\n')
    assert read_settings({}, str(file)).project == "shop"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("project = ", "bad-config"),
        ("[gnomon]\nproject = 5\n", "bad-config"),
        ("[gnomon]\nnope = 5\n", "unknown-name"),
        ("[gnomon]\ntimezones = 'UTC'\n", "bad-config"),
        ("gnomon = 5\n", "bad-config"),
        ("gnomon = [1]\n", "bad-config"),
        ("project = '\ud800'", "bad-config"),
    ],
)
def test_a_toml_file_that_cannot_be_used(tmp_path, text, code):
    file = tmp_path / "gnomon.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(GnomonError) as caught:
        read_settings({}, file)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"buffer_events": "lots"},
        {"buffer_events": 1.5},
        {"enabled": "no"},
        {"timezones": "UTC"},
        {"project": None},
        {"flush_seconds": None},
        {"database_url": 5},
    ],
)
def test_a_keyword_of_the_wrong_type_is_refused_when_the_engine_is_opened(changes):
    with pytest.raises(InvalidValue) as caught:
        gnomon.open(":memory:", settings=Settings(), **changes) if "project" not in changes else Settings().but(
            **changes
        )
    assert caught.value.code == "bad-config"


def test_but_changes_what_it_is_told_and_nothing_else():
    found = Settings(buffer_events=5).but(project="p", timezones=["UTC"], flush_seconds=1)
    assert (found.project, found.buffer_events, found.timezones, found.flush_seconds) == ("p", 5, ("UTC",), 1.0)


def test_what_cannot_be_opened_is_refused(tmp_path):
    for url, code in (
        ("mysql://x", "bad-store"),
        (str(tmp_path), "bad-store"),
        (str(tmp_path / "no" / "x.duckdb"), "store-unavailable"),
        ("duckdb://", "bad-store"),
    ):
        with pytest.raises(GnomonError) as caught:
            gnomon.open(url)
        assert caught.value.code == code, url
    with pytest.raises(UnknownName, match="time zone"):
        gnomon.open(":memory:", timezones=["Mars/Olympus"])
    with pytest.raises(InvalidValue):
        gnomon.open(":memory:", timezones=[])


@pytest.mark.parametrize(
    ("name", "value"),
    [("flush_events", 0), ("flush_seconds", 0.0), ("flush_seconds", float("nan")), ("threads", -1),
     ("journal_max_bytes", 5), ("query_timeout_seconds", float("inf")), ("event_retention_days", 0)],
)  # fmt: skip
def test_a_number_that_cannot_work_is_refused(name, value):
    with pytest.raises(InvalidValue, match=name) as caught:
        Settings().but(**{name: value})
    assert caught.value.code == "bad-config" and "Give a number of" in caught.value.remedy


def test_zero_is_taken_where_it_means_something():
    assert Settings().but(threads=0, cache_entries=0, checkpoint_seconds=0).cache_entries == 0


# -- the off switch ---------------------------------------------------------------------------------------------------


def check_off(engine):
    for _ in range(3):
        engine.track("t", properties={"a": 1})
        engine.record_request(url="http://x/")
        engine.record_metric("m", 1)
        engine.flush()
    assert engine._thread is None
    assert engine.query(["events"]).to_dicts() == [{"events": 0}]
    assert engine.query(["samples"], dataset="samples").to_dicts() == [{"samples": 0}]
    assert engine.books().received == engine.books("sample").received == 0
    assert engine.health().sound


def test_switched_off_recording_does_nothing_and_asking_works():
    with gnomon.open(":memory:", enabled=False, clock=ManualClock(), flush_seconds=0.01) as engine:
        check_off(engine)


def test_a_switch_that_does_not_switch_is_found():
    with gnomon.open(":memory:", enabled=True, clock=ManualClock()) as engine, pytest.raises(AssertionError):
        check_off(engine)


def test_the_data_folder_is_that_of_exports_unless_one_is_named():
    assert read_settings({"GNOMON_DATA_DIR": "/data"}).export_dir == "/data"
    assert read_settings({"GNOMON_DATA_DIR": "/data", "GNOMON_EXPORT_DIR": "/x"}).export_dir == "/x"
    assert read_settings({}).export_dir == ""
