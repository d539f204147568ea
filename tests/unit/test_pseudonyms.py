"""Pseudonyms: deterministic, apart by key, project, field and value; the gate puts them where an id would stand."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnomon
from gnomon import pseudonyms
from gnomon.config import Settings, read_settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.event import AT, SAMPLE_AT
from gnomon.ingest.calls import CALL, Call
from gnomon.ingest.gate import Gate
from gnomon.pseudonyms import Pseudonyms, key_name

K1 = "kT5vX1mQ9wZr3LbYc7NdFhJ8PsRuA2eGi4oC6xQ0zV"
K2 = "Zy7Wn4RkB1tQ8sLpV3mXc6HdJ0fGaE9uTi2oYrNwK5"
NOW = 1_768_478_400_000_000
ON = Settings(pseudonym_keys=(K1,), pseudonym_properties=("email", "a.b"))
FOREVER = {
    "id": "~kaa7a.3B8qo7dvl1DElIX-Jj6KTg",
    "text": "~kaa7a.B-lBitcaEWoR7fdRxmHTMA",
    "number": "~kaa7a.L0r5Ewdw5JXKtYckGYmppA",
}
IDS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=50)
SCALARS = st.one_of(IDS, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))


def made(*keys, properties=("email",), project="p"):
    return Pseudonyms(keys or (K1,), properties, project)


def admit(fields, settings=ON, *, imported=False, way="call"):
    """What the gate makes of one event by one of its ways in."""
    gate = Gate(settings, lambda: NOW)
    if way == "call":
        whole = {"weight": 1.0, "at_ns": NOW * 1_000, **fields}
        return gate.admit_calls([tuple(whole.get(name) for name in CALL)], imported=imported)
    return gate.admit_fields([json.loads(json.dumps(fields)) if way == "wire" else fields], imported=imported)


def row(fields, *given_, **named):
    (found,) = admit({"type": "t", **fields}, *given_, **named).rows
    return found


# -- what a pseudonym is ----------------------------------------------------------------------------------------------


def test_the_form_says_which_key_made_it_and_needs_no_escape():
    found = made().of_id("u1")
    assert found.startswith(f"~k{key_name(K1)}.") and len(found) == 29
    assert set(found[1:]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert made().is_own(found) and not made(K2).is_own(found) and made(K2, K1).is_own(found)
    assert not made().is_own(found + "x") and not made().is_own("u1") and not made().is_own(found[:-1] + "\n")


def test_it_stays_the_same_for_good():
    """A change here would part every person of every store from their past."""
    assert made().of_id("u1") == FOREVER["id"]
    assert made().values("email", "a@b.c")[1] == FOREVER["text"]
    assert made().values("email", 1)[1] == FOREVER["number"]


def test_every_process_makes_the_same_one():
    code = f"from gnomon.pseudonyms import Pseudonyms as P; print(P(({K1!r},), (), 'p').of_id('ü1'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == made(properties=()).of_id("ü1")


@given(st.lists(IDS, unique=True, min_size=2, max_size=5))
def test_different_ids_have_different_ones_and_nothing_links_projects_fields_or_keys(ids):
    found = set()
    for text in ids:
        for key in (K1, K2):
            for project in ("p", "q"):
                known = made(key, project=project, properties=("email", "phone"))
                found |= {known.of_id(text), known.values("email", text)[1], known.values("phone", text)[1]}
    assert len(found) == len(ids) * 12
    assert not any(text in one for text in ids if len(text) > 5 for one in found)


@given(SCALARS, SCALARS)
def test_values_are_apart_as_answers_keep_them_apart(one, other):
    """`"1"` is not `1`, while `1` and `1.0` are the same number, unless a double does not name it."""
    same = type(one) is type(other) and one == other
    if isinstance(one, int | float) and isinstance(other, int | float) and abs(one) < 2**53:
        same = one == other
    elif isinstance(one, float) != isinstance(other, float):
        same = False
    known = made()
    assert (known.values("email", one)[1] == known.values("email", other)[1]) == same


# -- the gate ---------------------------------------------------------------------------------------------------------


@given(user=IDS | st.none(), device=IDS | st.none(), session=IDS | st.none(), email=SCALARS | st.none() | st.booleans())
def test_all_ways_in_make_the_same_of_it(user, device, session, email):
    fields = {"user_id": user, "device_id": device, "session_id": session, "properties": {"email": email, "page": user}}
    rows = [row(fields, way=way, imported=imported) for way in ("call", "fields", "wire") for imported in (False, True)]
    rows.append(Gate(ON, lambda: NOW).admit_calls([Call(*[fields.get(name) if name in fields else
                {"type": "t", "weight": 1.0, "at_ns": NOW * 1_000}.get(name) for name in CALL])]).rows[0])  # fmt: skip
    known = made(project="default")
    for found in rows:
        wanted = [None if text is None else known.of_id(text) for text in (user, device, session)]
        assert [found[AT[name]] for name in ("user_id", "device_id", "session_id")] == wanted
        kept = email if email is None or isinstance(email, bool) else known.values("email", email)[1]
        assert json.loads(found[AT["properties"]]) == {"email": kept, "page": user}


def test_off_means_untouched():
    fields = {"user_id": "u1", "device_id": "d1", "session_id": "s1", "properties": {"email": "a@b.c"}}
    found = row(fields, Settings())
    assert found[AT["user_id"] : AT["session_id"] + 1] == ("u1", "d1", "s1")
    assert found[AT["properties"]] == '{"email":"a@b.c"}'


def test_the_other_fields_are_untouched_and_so_is_what_the_host_holds():
    told = {"email": "a@b.c", "n": 1}
    fields = {"user_id": "u1", "source": "s", "endpoint": "/a", "duration_ms": 1.5, "properties": told, "id": "i"}
    on, off = row(fields), row(fields, Settings())
    assert told == {"email": "a@b.c", "n": 1}
    changed = [name for name, at in AT.items() if on[at] != off[at]]
    assert changed == ["user_id", "properties"]


def test_nested_values_keep_their_shape_and_nothing_else():
    told = {"email": {"a@b.c": ["x", 1, None, True, {"y": 2.0}]}, "a.b": "flat", "a": {"b": "nested"}}
    found = json.loads(row({"properties": told})[AT["properties"]])
    known = made(project="default")
    text = {value: known.values("email", value)[1] for value in ("a@b.c", "x", 1, "y", 2)}
    assert found["email"] == {text["a@b.c"]: [text["x"], text[1], None, True, {text["y"]: text[2]}]}
    assert found["a.b"].startswith("~k") and found["a"] == {"b": "nested"}


def test_labels_of_samples():
    sample = ("m", 1, "gauge", {"email": "a@b.c", "q": "x"}, None, NOW * 1_000, None)
    rows, _ = Gate(ON, lambda: NOW).admit_samples([sample])
    found = json.loads(rows[0][SAMPLE_AT["labels"]])
    assert found == {"email": made(project="default").values("email", "a@b.c")[1], "q": "x"}


def test_a_file_keeps_pseudonyms_of_ours_and_a_call_does_not():
    """Else whoever sees a pseudonym could speak for the person by sending it as an id."""
    known, foreign = made(project="default").of_id("u1"), made(K2, project="default").of_id("u1")
    told = {"user_id": known, "device_id": foreign, "properties": {"email": known}}
    brought, sent = row(told, imported=True), row(told)
    assert brought[AT["user_id"]] == known and json.loads(brought[AT["properties"]]) == {"email": known}
    assert brought[AT["device_id"]] not in (foreign, known)
    assert sent[AT["user_id"]] not in (known, "u1")
    gate = Gate(ON, lambda: NOW)
    gate.admit_fields([{"type": "t", "user_id": known}])  # remembered now, and must not be found by the import
    assert gate.admit_fields([{"type": "t", "user_id": known}], imported=True).rows[0][AT["user_id"]] == known


class Opaque:
    def __repr__(self):
        return "CANARY"


BAD = [
    ({"user_id": "C" * 201}, "too-long"), ({"user_id": "CANARY\0"}, "nul-character"), ({"user_id": ""}, "empty-name"),
    ({"user_id": "CANARY\ud800"}, "lone-surrogate"), ({"device_id": b"CANARY"}, "wrong-type"),
    ({"session_id": ["CANARY"]}, "wrong-type"), ({"user_id": {"CANARY": 1}}, "wrong-type"),
    ({"user_id": "CANARY", "status_code": 7}, "out-of-range"), ({"source": {"x": "CANARY"}}, "wrong-type"),
    ({"method": Opaque()}, "wrong-type"),
    ({"properties": {"email": "CANARY" * 2_000}}, "too-long"), ({"properties": {"email": "CANARY\0"}}, "nul-character"),
    ({"properties": {"email": ["CANARY", {"CANARY": "CANARY\ud800"}]}}, "lone-surrogate"),
    ({"properties": {"email": {"": "CANARY"}}}, "empty-name"), ({"properties": {"email": b"CANARY"}}, "wrong-type"),
    ({"properties": {"email": float("nan")}}, "not-finite"), ({"properties": {"email": 2**70}}, "number-too-large"),
    ({"properties": "email CANARY"}, "wrong-type"), ({"properties": ["CANARY"]}, "wrong-type"),
    ({"properties": {"email": [[[[[[[[[[[[[[[["CANARY"]]]]]]]]]]]]]]]]}}, "too-deep"),
    ({"properties": {"email": "CANARY"}, "ts": "never"}, "bad-time"), ({"user_id": "CANARY", "ts": "x"}, "bad-time"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code"), BAD)
@pytest.mark.parametrize("way", ["call", "fields"])
def test_the_rules_hold_as_before_and_the_quarantine_names_nobody(fields, code, way):
    for settings in (Settings(), ON):
        (refused,) = admit({"type": "t", **fields}, settings, way=way).refused
        assert refused.code == code
    assert "CANARY" not in refused.text + refused.detail
    assert refused.text.count("C") < 50


@pytest.mark.parametrize("sent", ["CANARY", ["CANARY"], {"user": "CANARY", "type": "t"},
                                  {"type": "t", "payload": ["CANARY"]},
                                  {"type": "t", "payload": {"email": "CANARY"}, "properties": {"a": 1}}])  # fmt: skip
def test_nor_does_it_for_what_is_no_event(sent):
    (refused,) = admit(sent, way="fields").refused
    assert "CANARY" not in refused.text


def test_a_refused_sample_names_nobody():
    sample = ("m", "x", "gauge", {"email": "CANARY"}, None, NOW * 1_000, None)
    _, refused = Gate(ON, lambda: NOW).admit_samples([sample])
    assert "CANARY" not in refused[0].text and "email" in refused[0].text


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(pseudonyms, "MOST_REMEMBERED", 10)
    known = made()
    for n in range(1_000):
        known.of_event(f"u{n}", None, None, {"email": f"e{n}"}, False)
    assert len(known._people) <= 10 and len(known._values["email"]) <= 10


# -- promises broken on purpose ---------------------------------------------------------------------------------------


def test_a_ring_that_forgets_project_or_field_is_found(monkeypatch):
    one, other = made(project="p").of_id("u1"), made(project="q").of_id("u1")
    assert one != other
    whole = pseudonyms._Ring.make
    monkeypatch.setattr(pseudonyms._Ring, "make", lambda self, field, text: whole(self, "x", text))
    with pytest.raises(AssertionError):
        test_different_ids_have_different_ones_and_nothing_links_projects_fields_or_keys.hypothesis.inner_test(
            ["a", "b"]
        )


def test_a_gate_that_shows_what_was_sent_is_found(monkeypatch):
    monkeypatch.setattr(Pseudonyms, "hidden", lambda self, sent, known: sent)
    with pytest.raises(AssertionError):
        test_the_rules_hold_as_before_and_the_quarantine_names_nobody({"user_id": "CANARY", "status_code": 7},
                                                                      "out-of-range", "call")  # fmt: skip


def test_a_digest_made_before_the_rules_is_found(monkeypatch):
    monkeypatch.setattr(pseudonyms, "_fits", lambda text, most: True)
    monkeypatch.setattr(pseudonyms, "LONGEST_ID", 10**6)
    with pytest.raises((AssertionError, ValueError)):
        test_the_rules_hold_as_before_and_the_quarantine_names_nobody({"user_id": "C" * 201}, "too-long", "call")


# -- the settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "short", "x" * 64, "0123456789abcdef" * 4, "abcdefghijklmnopqrstuvwxyz012345",
                                 "change-me-change-me-Change-Me-42-!", "an-EXAMPLE-of-a-key-kT5vX1mQ9wZr3", K1[:31],
                                 "\ud800" * 40])  # fmt: skip
def test_weak_keys_are_refused_and_never_repeated(key):
    for attempt in (
        lambda: Settings().but(pseudonym_keys=[K1, key]),
        lambda: gnomon.open(":memory:", settings=Settings(pseudonym_keys=(key,))),
    ):
        with pytest.raises(InvalidValue) as error:
            attempt()
        assert error.value.code in ("weak-key", "bad-config")
        assert len(key) < 6 or key not in str(error.value)


@pytest.mark.parametrize("keys", [(K1, K1), (K1, K2, K1)])
def test_the_same_key_twice_is_refused(keys):
    with pytest.raises(InvalidValue, match="same"):
        Settings().but(pseudonym_keys=keys)


def test_random_keys_are_taken():
    import secrets

    for _ in range(300):
        Settings().but(pseudonym_keys=[secrets.token_urlsafe(32), secrets.token_hex(32)])


def test_from_the_environment(tmp_path):
    found = read_settings({"GNOMON_PSEUDONYM_KEYS": f"{K1}, {K2}", "GNOMON_PSEUDONYM_PROPERTIES": "email,phone"})
    assert (found.pseudonym_keys, found.pseudonym_properties) == ((K1, K2), ("email", "phone"))
    with pytest.raises(InvalidValue, match="empty"):
        read_settings({"GNOMON_PSEUDONYM_KEYS": ""})
    with pytest.raises(GnomonError) as error:
        read_settings({"GNOMON_PSEUDONYM_KEYS": f"{K1},{K2[:20]}"})
    assert K2[:20] not in str(error.value) and "key 2" in str(error.value)
    (tmp_path / "x.toml").write_text(f'pseudonym_keys = ["{K1}"]\n')
    assert read_settings({}, tmp_path / "x.toml").pseudonym_keys == (K1,)


@pytest.mark.parametrize("changes", [
    {"pseudonym_properties": ("email",)}, {"pseudonym_keys": (K1,), "pseudonym_properties": ("properties.email",)},
    {"pseudonym_keys": (K1,), "pseudonym_properties": ("",)},
])  # fmt: skip
def test_properties_that_would_not_be_replaced_are_refused(changes, tmp_path):
    with pytest.raises(InvalidValue):
        gnomon.open(tmp_path / "x.duckdb", settings=replace(Settings(), **changes))
    assert list(tmp_path.iterdir()) == []


def test_no_key_is_ever_shown():
    settings = Settings(pseudonym_keys=(K1, K2), pseudonym_properties=("email",), database_url=":memory:")
    with gnomon.open(settings=settings) as engine:
        shown = repr(settings) + str(engine.health().to_dict()) + repr(engine._pseudonyms) + repr(engine._gate)
        assert K1 not in shown and K2 not in shown
        told = engine.health().facts["pseudonyms"]
        assert told == f"on, key k{key_name(K1)}; older keys k{key_name(K2)}; properties email"
        reader = engine.acting_as(gnomon.Principal("reader", ["read"]))
        assert reader.settings.pseudonym_keys == ()
        assert reader.settings.pseudonym_properties == ("email",)
    with gnomon.open(":memory:") as engine:
        assert engine.health().facts["pseudonyms"] == "off"
