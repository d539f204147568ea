"""The tree of exceptions: codes, states, remedies, and that none repeats what a stranger sent."""

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon import errors
from gnomon.errors import GnomonError, InvalidValue, MissingExtra, UnknownName, nearest, unknown_name

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, GnomonError)]


def check_tree(classes):
    assert len(classes) <= 12
    codes = [found.code for found in classes]
    assert len(set(codes)) == len(codes)
    for found in classes:
        assert found.code == found.code.lower() and " " not in found.code
        assert 400 <= found.status < 600
        assert found.__doc__ and found.__doc__.strip()


def test_every_exception_has_a_code_of_its_own_and_a_status():
    check_tree(CLASSES)


def test_a_code_that_is_used_twice_or_a_thirteenth_class_is_found():
    class Twin(GnomonError):
        """One more."""

        code = "disk-full"

    with pytest.raises(AssertionError):
        check_tree([*CLASSES, Twin])
    with pytest.raises(AssertionError):
        check_tree([*CLASSES, *(type(f"E{n}", (GnomonError,), {"__doc__": "x", "code": f"e{n}"}) for n in range(12))])


def test_an_error_is_a_sentence_a_code_and_a_remedy():
    error = InvalidValue("the thing is wrong", remedy="Turn it round.", code="bad-thing")
    assert str(error) == "the thing is wrong (bad-thing). Turn it round."
    assert str(GnomonError("it failed")) == "it failed (error)"
    assert isinstance(error, ValueError)
    assert isinstance(MissingExtra("polars", "polars"), ImportError)
    assert "gnomon[polars]" in MissingExtra("polars", "polars").remedy


def test_a_code_given_to_one_error_is_not_that_of_the_class():
    InvalidValue("x", code="other")
    assert InvalidValue.code == "invalid-value"


@given(st.text(), st.lists(st.text(min_size=1, max_size=9), max_size=5))
def test_an_unknown_name_is_quoted_short_and_printable(name, known):
    error = unknown_name("metric", name, known)
    assert isinstance(error, UnknownName)
    assert str(error).isprintable()
    assert len(error.message) < 60 * 2 + 40


@pytest.mark.parametrize("name", [5, None, 10**5_000, [1], {}, b"x", object(), float("nan")], ids=range(8))
def test_a_name_that_is_no_text_is_told_by_its_type(name):
    assert type(name).__name__ in unknown_name("metric", name, ["a"]).message


def test_the_nearest_name():
    assert nearest("succes_rate", ["success_rate", "error_rate"]) == "success_rate"
    assert nearest("zzz", ["success_rate"]) is None
    assert "success_rate" in unknown_name("metric", "succes_rate", ["success_rate"]).remedy
    assert unknown_name("metric", "zzz", ["b", "a"]).remedy == "Known: a, b."


def test_an_error_can_go_to_another_process():
    for error in (InvalidValue("x", remedy="y", code="z"), unknown_name("a", "b", ["c"])):
        back = pickle.loads(pickle.dumps(error))
        assert (str(back), back.code, back.remedy) == (str(error), error.code, error.remedy)
