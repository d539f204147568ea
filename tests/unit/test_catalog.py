"""Dimensions and measures by name; aliases, properties, and suggestions for what does not exist."""

import pytest

from gnomon.catalog import ALIASES, DATASETS, EVENTS, SAMPLES, TIME_GRAINS, dataset, find_dimension
from gnomon.errors import InvalidValue, UnknownName
from gnomon.event import BY_NAME


def test_every_declared_name_is_found_and_is_a_column():
    for data in DATASETS.values():
        for name in data.dimensions:
            assert find_dimension(data, name).name == name
        assert dataset(data.name) is data
    derived = {"actor", "status_class"}
    assert {found.column for found in EVENTS.dimensions.values()} - derived <= BY_NAME.keys()
    assert set(EVENTS.measures) <= BY_NAME.keys()
    assert EVENTS.has_weight and not SAMPLES.has_weight


@pytest.mark.parametrize("name", TIME_GRAINS)
def test_every_grain_of_time(name):
    found = find_dimension(EVENTS, f"time:{name}")
    assert (found.kind, found.grain, found.column) == ("time", name, "ts")


def test_time_alone_means_days():
    assert find_dimension(EVENTS, "time").grain == "day"


@pytest.mark.parametrize(("given", "meant"), ALIASES.items())
def test_other_names_of_the_same(given, meant):
    found = find_dimension(EVENTS, given)
    assert (found.name, found.column) == (given, find_dimension(EVENTS, meant).column)  # asked and answered by one name


@pytest.mark.parametrize("key", ["a", "a.b", "a b", "'", "é" * 100, "k" * 200, "\U0001f600" * 50, "~/", "properties."])
def test_any_key_that_the_gate_lets_pass_is_a_dimension(key):
    assert find_dimension(EVENTS, f"properties.{key}").json_key == key
    assert find_dimension(EVENTS, f"event:props:{key}").json_key == key
    assert find_dimension(SAMPLES, f"labels.{key}").json_key == key


@pytest.mark.parametrize("key", ["", "k" * 201, "é" * 101, "\0", "\ud800"])
def test_and_no_other(key):
    with pytest.raises(InvalidValue) as caught:
        find_dimension(EVENTS, f"properties.{key}")
    assert caught.value.code == "bad-query"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sorce", "source"), ("time:hours", "time:hour"), ("Type", "type"), ("propertis.x", "properties.<key>")],
)
def test_a_wrong_name_gets_the_nearest_one(name, hint):
    with pytest.raises(UnknownName) as caught:
        find_dimension(EVENTS, name)
    assert hint in caught.value.remedy


@pytest.mark.parametrize("name", [None, 5, [], {}, b"type"])
def test_a_name_is_a_text(name):
    with pytest.raises(InvalidValue):
        find_dimension(EVENTS, name)
    with pytest.raises(UnknownName):
        dataset(name)


def test_keys_of_the_other_dataset_do_not_exist():
    with pytest.raises(UnknownName):
        find_dimension(EVENTS, "labels.x")
    with pytest.raises(UnknownName):
        find_dimension(SAMPLES, "properties.x")
