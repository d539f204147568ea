"""Sampling: what is kept weighs for what is gone, with errors as large as it says; every promise has a broken variant.

The sampler is pure, so thousands of runs need no engine: the estimates are computed by the query engine's formulas, and
a few runs are compared with the query engine itself.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from statistics import fmean, pvariance
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import (
    DEFAULTS,
    DURATION,
    SOURCE,
    START_NS,
    SUCCESS,
    THRESHOLDS,
    WEIGHT,
    arrivals,
    estimates,
    kept_of,
    paces_by_hand,
    population,
    row,
    thin,
)

import gnomon
from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.event import AT, Batch, column
from gnomon.ingest import sampling
from gnomon.ingest.bodies import batch_of, body_of
from gnomon.ingest.sampling import Floor, Pace, Sampler, coins, coins_in_a_row
from gnomon.ingest.thresholds import Thresholds
from gnomon.testing import ManualClock

STEP = THRESHOLDS.slice


def ids(count, head="018f3c1e-7a2b-7c3d-9e4f-"):
    """Ids as the gate makes them: they count up."""
    return [f"{head}{n:012x}" for n in range(count)]


# -- the keep probability ---------------------------------------------------------------------------------------------

NUMBER = st.floats(0.001, 1e9)


@given(NUMBER, NUMBER, st.floats(0.001, 1.0), st.floats(0.0, 1e10))
def test_the_probability_falls_in_a_straight_line_between_the_thresholds(one, other, rate, pace):
    low, high = sorted((one, other))
    if low == high:
        return
    keep = Thresholds(low, high, rate).keep(pace)
    if pace <= low:
        assert keep == 1
    elif pace >= high:
        assert keep == rate
    else:
        way = (Fraction(pace) - Fraction(low)) / (Fraction(high) - Fraction(low))
        assert keep == pytest.approx(float(1 - way * (1 - Fraction(rate))), rel=1e-9)
        assert rate <= keep <= 1


@pytest.mark.parametrize(
    "wrong",
    [(0, 1, 0.1), (-1, 1, 0.1), (2, 2, 0.1), (3, 2, 0.1), (1, 2, 0), (1, 2, 1.01), (1, 2, -0.1), ("1", 2, 0.1),
     (1, None, 0.1), (True, 2, 0.1), (1, float("inf"), 0.1), (float("nan"), 2, 0.1), (1, 2, float("nan"))],
)  # fmt: skip
def test_thresholds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidValue) as caught:
        Thresholds(*wrong)
    assert caught.value.code == "bad-thresholds" and caught.value.remedy


# -- the pace ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2_000_000_000) | st.integers(0, 1_000_000), min_size=1, max_size=400))
def test_the_pace_is_that_of_the_last_events(gaps):
    times = [START_NS + sum(gaps[: n + 1]) for n in range(len(gaps))]
    thresholds = Thresholds(1_500, 40_000, 0.5)
    step, pace = thresholds.slice, Pace()
    found = []
    for start in range(0, len(times), step):
        part = times[start : start + step]
        found += [pace.add(len(part), part[-1], step)] * len(part)
    expected = paces_by_hand(times, step)
    whole = len(times) - len(times) % step  # the last slice may share its mark with the one before it
    assert found[:whole] == pytest.approx(expected[:whole])


def probabilities(times, cuts=(), thresholds=THRESHOLDS):
    """The keep probability in force for each event; each is its own source."""
    sampler, found = Sampler(DEFAULTS, "p"), [1.0] * len(times)
    places = sorted({0, len(times), *cuts})
    for start, end in itertools.pairwise(places):
        for first, last, probability, _ in sampler._slices(end - start, times[start:end].__getitem__, thresholds):
            found[start + first : start + last] = [probability] * (last - first)
    return found


CUTS = st.lists(st.integers(1, 2_000), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9_500), st.integers(0, 400), CUTS)
def test_up_to_the_low_threshold_nothing_is_sampled(pace, count, cuts):
    times = arrivals((pace, count))
    assert set(probabilities(times, [cut for cut in cuts if cut < count])) <= {1.0}


def check_step(before, cuts):
    """From any calm pace to 200,000 a minute: 100 ms later the full sampling is in force."""
    calm = 300
    times = arrivals((before, calm), (200_000, 1_000))
    found = probabilities(times, [cut for cut in cuts if cut < len(times)])
    step_at = times[calm - 1]
    assert set(found[: calm - STEP]) == {1.0}  # a slice may reach over the step
    late = [p for p, at in zip(found, times, strict=True) if at > step_at + 100_000_000]
    assert len(late) > 600 and set(late) == {THRESHOLDS.rate}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0.1, 60, 3_000, 9_000]), CUTS)
def test_a_step_from_idle_to_200_000_a_minute_is_sampled_within_100_ms(before, cuts):
    check_step(before, cuts)


def test_a_pace_over_too_many_events_is_found(monkeypatch):
    monkeypatch.setattr(sampling, "SLICES", 15)
    with pytest.raises(AssertionError):
        check_step(60, [])


@pytest.mark.parametrize("thresholds", [Thresholds(100, 1_000, 0.5), Thresholds(190_000, 199_000, 0.2), THRESHOLDS])
def test_the_same_holds_for_other_thresholds(thresholds):
    times = arrivals((thresholds.low / 10, 100), (200_000, 2_000))
    found = probabilities(times, (), thresholds)
    assert {p for p, at in zip(found, times, strict=True) if at > times[99] + 100_000_000} == {thresholds.rate}


def test_after_a_burst_the_next_event_is_kept_for_sure():
    times = arrivals((200_000, 1_000), (60, 3))
    assert probabilities(times, [1_000])[-3:] == [1.0, 1.0, 1.0]


def test_a_clock_that_is_set_back_starts_the_pace_anew_and_small_steps_back_do_not():
    times = arrivals((200_000, 600))
    jumbled = [at - 5_000_000 * (n % 7 == 0) for n, at in enumerate(times)]
    assert set(probabilities(jumbled)[300:]) == {0.1}
    back = times + arrivals((5_000, 300), start_ns=START_NS - 3_600_000_000_000)
    assert set(probabilities(back, [600])[600:]) == {1.0}


def test_a_clock_that_stands_still_is_a_pace_without_bound():
    assert probabilities([START_NS] * 400)[-1] == 0.1


def test_the_pace_keeps_few_marks_however_small_the_batches():
    pace = Pace()
    for n in range(5_000):
        pace.add(1, START_NS + n * 1_000_000, STEP)
    assert len(pace._marks) <= 2 * sampling.SLICES + 2


# -- the coin ---------------------------------------------------------------------------------------------------------


def coin_by_hand(id_, salt):
    x = crc32(id_.encode(), salt)
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=20), st.integers(0, 2**32 - 1))
def test_a_coin_belongs_to_its_id_alone(texts, salt):
    found = coins(texts, salt)
    assert found == [coin_by_hand(text, salt) for text in texts]
    assert coins(texts[::-1], salt) == found[::-1]


def check_independent(throw=None):
    """Ids that count up: shares of small groups vary as those of independent coins do, whatever the salt."""
    group, share = 16, 0.3
    for salt in range(5):
        thrown = coins(ids(32_000), salt) if throw is None else throw(ids(1)[0], 32_000, salt)
        hits = [coin < share * 2**32 for coin in thrown]
        groups = [sum(hits[n : n + group]) for n in range(0, len(hits), group)]
        assert fmean(groups) == pytest.approx(group * share, rel=0.03)
        assert pvariance(groups) == pytest.approx(group * share * (1 - share), rel=0.12)


def test_coins_of_ids_that_count_up_are_independent():
    check_independent()
    check_independent(coins_in_a_row)


def test_coins_in_a_row_follow_from_the_first_id_and_the_salt():
    one = coins_in_a_row("a", 500, 3)
    assert one[:100] == coins_in_a_row("a", 100, 3)
    for other in (coins_in_a_row("b", 500, 3), coins_in_a_row("a", 500, 4)):
        assert sum(abs(x - y) < 2**32 / 10 for x, y in zip(one, other, strict=True)) < 150


def test_a_batch_whose_ids_were_made_here_is_sampled_alike():
    kept = []
    for turn in range(60):
        batch = Batch("p", rows=[row(id_) for id_ in ids(2_000, f"{turn:08x}")])
        Sampler(DEFAULTS, "p").thin(batch, lambda place: START_NS, THRESHOLDS)
        kept.append(sum(one[WEIGHT] for one in batch.rows))
    assert abs(fmean(kept) - 2_000) < 4 * (1_850 * 9 / 60) ** 0.5
    assert 0.6 < pvariance(kept) / (1_850 * 9) < 1.6


def test_a_coin_that_is_only_a_checksum_is_found(monkeypatch):
    monkeypatch.setattr("test_sampling.coins", lambda texts, salt: [crc32(text.encode(), salt) for text in texts])
    with pytest.raises(AssertionError):
        check_independent()


def kept_ids(seed=0, project="p", cuts=()):
    rows = [row(id_) for id_ in ids(2_000)]
    return {
        r[0]
        for r in kept_of(thin(rows, [START_NS] * 2_000, DEFAULTS.but(sampling_seed=seed), cuts=cuts, project=project))
    }


def check_same_coin():
    """Sent again in other batches, an event meets the same coin: at the same pace it fares the same."""
    assert kept_ids(cuts=[1_000]) == kept_ids()
    rows = [row(id_) for id_ in ids(1_000)]
    filler = [row(f"filler-{n}") for n in range(400)]
    (first,) = thin(filler + rows, [START_NS] * 1_400)
    (again,) = thin(filler + rows[::-1], [START_NS] * 1_400)
    assert {r[0] for r in first.rows} == {r[0] for r in again.rows}


def test_the_same_id_meets_the_same_coin():
    check_same_coin()


def test_a_coin_by_place_is_found(monkeypatch):
    real = coins
    monkeypatch.setattr(sampling, "coins", lambda texts, salt: real([str(n) for n in range(len(texts))], salt))
    with pytest.raises(AssertionError):
        check_same_coin()


def test_a_seed_repeats_and_another_seed_or_project_does_not():
    assert kept_ids(seed=5) == kept_ids(seed=5)
    sure = set(ids(6 * STEP))
    for other in (kept_ids(seed=6), kept_ids(seed=5, project="q")):
        shared = len((kept_ids(seed=5) & other) - sure)
        assert 0.5 < shared / (len(other - sure) * 0.1) < 1.6  # as of independent coins


def test_who_is_kept_at_a_probability_is_kept_at_every_higher_one():
    slow, fast = ([START_NS + n * gap for n in range(2_000)] for gap in (1_200_000, 600_000))  # 50,000 and 100,000
    rows = [row(id_) for id_ in ids(2_000)]
    some, fewer = ({r[0] for r in kept_of(thin(rows, times))} for times in (slow, fast))
    assert fewer < some


# -- what becomes of a row --------------------------------------------------------------------------------------------

FIELDS = {
    "type": ["request", "request", "page_view", "job"],
    "success": [True, True, False, None],
    "source": [None, "a", "b", "c", "d"],
    "user_id": [None, None, "u1", "u2", "u3"],
    "device_id": [None, "d1"],
    "weight": [1.0, 1.0, 2.5, 10.0],
    "properties": [None, '{"a":1}'],
}


def traffic_of(luck):
    return [{name: luck.choice(values) for name, values in FIELDS.items()} for _ in range(luck.randint(300, 500))]


TRAFFIC = st.integers(0, 2**32).map(lambda seed: traffic_of(random.Random(seed)))


def check_rows(events, types, floor, cuts):
    """By hand, row by row: who is sure to be kept, what the others weigh, and that the counts of each source close."""
    times = arrivals((50_000, len(events)))
    rows = [row(f"e{n}", at, **event) for n, (event, at) in enumerate(zip(events, times, strict=True))]
    cuts = [cut for cut in cuts if cut < len(rows)]
    chosen = Settings(sampled_types=tuple(types), sampling_floor_per_source=floor)
    batches = thin(rows, times, chosen, cuts=cuts)
    share, kept = dict(zip([r[0] for r in rows], probabilities(times, cuts), strict=True)), {}
    for batch in batches:
        kept |= {r[0]: r for r in batch.rows}
    seen, salt = Counter(), crc32(b"p\x000")
    for one in rows:
        probability = share[one[0]]
        fixed = probability == 1 or one[AT["type"]] not in types or one[SUCCESS] is False
        if not fixed:
            seen[one[SOURCE]] += 1
            fixed = seen[one[SOURCE]] <= floor
        if fixed:
            assert kept[one[0]] == one
        elif coin_by_hand(one[0], salt) < int(probability * 2**32):
            assert kept[one[0]] == (*one[:WEIGHT], one[WEIGHT] / probability, *one[WEIGHT + 1 :])
        else:
            assert one[0] not in kept
    assert [r[0] for r in kept_of(batches)] == [r[0] for r in rows if r[0] in kept]
    gone = Counter(r[SOURCE] for r in rows if r[0] not in kept)
    counted = Counter()
    for batch in batches:
        for kind, source, outcome, reason, n in batch.counts:
            assert (kind, outcome, reason) == ("event", "sampled_out", "")
            counted[source] += n
    assert counted == gone


TYPES = st.sets(st.sampled_from(["request", "job", "page_view"]))


@settings(max_examples=25, deadline=None)
@given(TRAFFIC, TYPES, st.integers(0, 20), CUTS)
def test_each_row_is_kept_as_it_is_or_weighed_or_gone_and_counted(events, types, floor, cuts):
    check_rows(events, types, floor, cuts)


MIXED = [{"success": n % 7 > 0, "source": "ab"[n % 2], "type": ("request", "job")[n % 3 == 0]} for n in range(400)]


def broken(text, change):
    """`Sampler._decide` with one thing changed."""
    import inspect
    import textwrap

    source = textwrap.dedent(inspect.getsource(Sampler._decide))
    assert text in source
    space = dict(vars(sampling))
    exec("from __future__ import annotations\n" + source.replace(text, change), space)
    return space["_decide"]


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("outcomes[place] is False", "outcomes[place] is None"),
        ("left and sources[place]", "False and sources[place]"),
        ("weights[place] *= factor", "pass"),
        ("weights[place] *= factor", "weights[place] *= factor * 1.01"),
        ("coin >= limit", "coin > 2**32 - limit"),
    ],
)
def test_a_sampler_that_breaks_a_rule_is_found(monkeypatch, text, change):
    check_rows(MIXED, {"request"}, 5, [200])
    monkeypatch.setattr(Sampler, "_decide", broken(text, change))
    with pytest.raises((AssertionError, KeyError)):
        check_rows(MIXED, {"request"}, 5, [200])


def test_a_sampler_that_forgets_which_types_it_is_for_is_found(monkeypatch):
    monkeypatch.setattr(sampling, "column", lambda rows, name: ["request"] * len(rows) if name == "type"
                        else column(rows, name))  # fmt: skip
    with pytest.raises((AssertionError, KeyError)):
        check_rows(MIXED, {"request"}, 5, [200])


def test_a_batch_that_is_not_touched_keeps_its_rows_and_one_that_is_does_not():
    rows = [row(f"e{n}") for n in range(400)]
    (calm,) = thin(rows, arrivals((9_000, 400)))
    assert calm.rows == rows and not calm.counts
    (other,) = thin([row(f"e{n}", type="page_view") for n in range(400)], arrivals((200_000, 400)))
    assert isinstance(other.rows, list) and len(other.rows) == 400
    (hot,) = thin(rows, arrivals((200_000, 400)))
    assert len(hot.rows) < 400


@settings(max_examples=20, deadline=None)
@given(TRAFFIC, CUTS)
def test_rows_by_columns_are_thinned_as_rows_one_by_one(events, cuts):
    times = arrivals((200_000, len(events)))
    rows = [row(f"e{n}", at, **event) for n, (event, at) in enumerate(zip(events, times, strict=True))]
    cuts = [cut for cut in cuts if cut < len(rows)]
    by_columns = thin(rows, times, cuts=cuts, by_columns=True)
    for one, other in zip(thin(rows, times, cuts=cuts), by_columns, strict=True):
        assert [*one.rows] == [*other.rows] and one.counts == other.counts and {*one.sightings} == {*other.sightings}
        assert body_of(other) and batch_of(body_of(other)).rows == [*one.rows]


def test_a_small_source_never_disappears_and_loses_nothing():
    times = arrivals((200_000, 250_000))  # parts of two minutes
    rows = [row(f"e{n}", source="small" if n % 25_000 == 0 else "large") for n in range(len(times))]
    kept = kept_of(thin(rows, times, Settings(), cuts=range(0, len(times), 5_000)))
    small = [r for r in kept if r[SOURCE] == "small"]
    assert len(small) == 10 and {r[WEIGHT] for r in small} == {1.0}
    assert sum(r[WEIGHT] for r in kept) == pytest.approx(len(rows), rel=0.03)


def test_any_number_of_sources_is_kept_sure_only_up_to_the_low_threshold():
    floor = Floor(10)
    floor.begin(START_NS, 500.0)
    assert sum(floor.keeps(f"s{n}") for n in range(5_000)) == 500
    assert len(floor._seen) <= 500 and len(floor.spent) <= 500
    floor.begin(START_NS + 60_000_000_000, 500.0)
    assert floor.keeps("s0")


# -- people -----------------------------------------------------------------------------------------------------------


def check_people(events, cuts):
    """Everybody in a row that is gone was sighted, in the right quarter-hour, once in a batch, and nobody else."""
    times = arrivals((200_000, len(events)))
    rows = []
    for n, (event, at) in enumerate(zip(events, times, strict=True)):
        rows.append(row(f"e{n}", at - (n % 3) * 1_000_000_000_000, **event))
    batches = thin(rows, times, cuts=[cut for cut in cuts if cut < len(rows)])
    kept = {r[0] for r in kept_of(batches)}
    expected = set()
    for one in rows:
        actor = one[AT["user_id"]] if one[AT["user_id"]] is not None else one[AT["device_id"]]
        if one[0] not in kept and actor is not None:
            quarter = one[1] // 900_000_000 * 900_000_000
            expected.add((quarter, actor, one[AT["type"]], one[SOURCE], one[AT["application"]]))
    found = [sighting for batch in batches for sighting in batch.sightings]
    assert set(found) == expected
    assert len(found) == len(set(found))


@settings(max_examples=20, deadline=None)
@given(TRAFFIC, CUTS)
def test_everybody_is_seen_before_the_decision(events, cuts):
    check_people(events, cuts)


@pytest.mark.parametrize(
    "wrong",
    [lambda real, rows: [], lambda real, rows: real(rows[1:]), lambda real, rows: [*real(rows), *real(rows)],
     lambda real, rows: [(ts + 1, *rest) for ts, *rest in real(rows)]],
)  # fmt: skip
def test_people_that_are_lost_or_put_in_another_time_are_found(monkeypatch, wrong):
    real = sampling.sightings_of
    events = [{"user_id": f"u{n}"} for n in range(400)]
    check_people(events, [])
    monkeypatch.setattr(sampling, "sightings_of", lambda rows: wrong(real, rows))
    with pytest.raises(AssertionError):
        check_people(events, [])


def test_what_is_remembered_of_people_is_bounded(monkeypatch):
    monkeypatch.setattr(sampling, "MOST_REMEMBERED", 100)
    sampler = Sampler(DEFAULTS, "p")
    for n in range(50):
        sampler.noted([(0, f"u{n}-{k}", "request", None, None) for k in range(30)])
        assert len(sampler._remembered) <= 100


# -- two thousand runs ------------------------------------------------------------------------------------------------

RUNS, PEOPLE = 2_000, population()
ROWS = [row(fields["id"], at, **{k: v for k, v in fields.items() if k != "id"}) for fields, at in PEOPLE]
TIMES = [at for _, at in PEOPLE]
QS = (0.5, 0.9)
TRUTH = {name: found.value for name, found in estimates(ROWS, QS).items()}


def runs(count):
    for seed in range(count):
        yield kept_of(thin(ROWS, TIMES, DEFAULTS.but(sampling_seed=seed)))


@pytest.fixture(scope="module")
def found():
    """The estimates of each run."""
    return [estimates(rows, QS) for rows in runs(RUNS)]


def coverage(found, truths=TRUTH):
    return {name: fmean(one[name].covers(truth) for one in found) for name, truth in truths.items()}


def hold(shares):
    return all(0.93 <= share <= 0.97 for share in shares)


def test_the_traffic_of_the_runs_meets_every_probability():
    shares = probabilities(TIMES)
    assert min(shares) == 0.1 and max(shares) == 1.0 and len(set(shares)) > 5


def test_the_intervals_hold_the_truth_95_times_in_100(found):
    assert hold(coverage(found).values()), coverage(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_do_those_of_high_percentiles_and_other_seeds_where_more_is_kept():
    people = population(fast=12_000, seed=8)
    rows = [row(fields["id"], at, **{k: v for k, v in fields.items() if k != "id"}) for fields, at in people]
    qs = (0.5, 0.9, 0.95, 0.98)
    truth = {name: one.value for name, one in estimates(rows, qs).items()}
    times = [at for _, at in people]
    seeds = range(10_000, 10_000 + RUNS)
    shares = coverage(
        [estimates(kept_of(thin(rows, times, DEFAULTS.but(sampling_seed=seed))), qs) for seed in seeds], truth
    )
    assert hold(shares.values()), shares


def test_totals_are_not_biased(found):
    for name in ("count", "sum"):
        values = [one[name].value for one in found]
        error = (pvariance(values) / len(values)) ** 0.5
        assert abs(fmean(values) - TRUTH[name]) < 4 * error < 0.01 * TRUTH[name]


def test_the_distribution_is_kept():
    """Together the runs have the distribution of the truth, in durations, sources and outcomes."""
    whole = [one for rows in runs(200) for one in rows]
    total = sum(one[WEIGHT] for one in whole)
    sides = [lambda one, edge=edge: one[DURATION] <= edge for edge in (20, 50, 80, 120, 250)]
    sides += [lambda one, source=source: one[SOURCE] == source for source in ("s0", "s1", "s2", "s3", "s4")]
    sides += [lambda one: one[SUCCESS] and one[SOURCE] == "s1"]
    for side in sides:
        share = sum(one[WEIGHT] for one in whole if side(one)) / total
        assert share == pytest.approx(sum(map(side, ROWS)) / len(ROWS), abs=0.01)


@pytest.mark.parametrize("factor", ["1.1", "0.9", "1.0 if factor < 5 else 8 / factor"])
def test_weights_that_do_not_fit_the_probability_are_found(monkeypatch, factor):
    monkeypatch.setattr(
        Sampler, "_decide", broken("weights[place] *= factor", f"weights[place] *= factor * ({factor})")
    )
    shares = coverage([estimates(rows, QS) for rows in runs(200)])
    assert not hold([shares["count"]]) and not hold([shares["sum"]])


@pytest.mark.parametrize("z", [1.6, 2.8])
def test_intervals_that_are_too_narrow_or_too_wide_are_found(z):
    shares = coverage([estimates(rows, QS, z) for rows in runs(400)])
    assert not any(hold([share]) for share in shares.values()), shares


def test_a_percentile_with_next_to_nothing_behind_it_has_no_interval():
    rows = next(runs(1))
    assert estimates(rows, (0.999,))["p100"].low is None
    sure = estimates(ROWS, (0.999,))["p100"]
    assert sure.low == sure.value == sure.high


@pytest.mark.parametrize("seed", [3, 11])
def test_the_engine_keeps_the_same_rows_and_says_the_same(seed):
    clock = ManualClock(datetime(2026, 1, 15, 12, tzinfo=UTC))
    changes = {"flush_seconds": 600.0, "sampling_seed": seed, "sampling_floor_per_source": 0}
    with gnomon.open(":memory:", project="p", clock=clock, **changes) as engine:
        for fields, at in PEOPLE:
            clock.now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at // 1_000)
            engine.record_request(**fields)
        engine.flush()
        names = ["requests", "sum_duration_ms", "mean_duration_ms", "success_rate"]
        answer = engine.query([*names, "p50_duration_ms", "p90_duration_ms"])
        times = [at // 1_000 * 1_000 for at in TIMES]
        rows = kept_of(thin(ROWS, times, DEFAULTS.but(sampling_seed=seed)))
        by_hand = list(estimates(rows, QS).values())
        for name, expected in zip([*names, "p50_duration_ms", "p90_duration_ms"], by_hand, strict=True):
            interval = answer.interval(name)
            found = (interval.low, interval.value, interval.high)
            assert found == pytest.approx((expected.low, expected.value, expected.high)), name
        books = engine.books()
        assert books.closes() and books.stored == len(rows) and books.sampled_out == len(ROWS) - len(rows)
