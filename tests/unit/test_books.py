"""The books as values: they close exactly when everything received is accounted for, in total and for each source."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gnomon.query.books import OUTCOMES, Account, books_of

SOURCE = st.sampled_from([None, "a", "b"])
REASONS = {"rejected": ["too-long", "bad-time"], "shed": ["buffer-full"]}
ENTRY = st.sampled_from(OUTCOMES).flatmap(
    lambda outcome: st.tuples(SOURCE, st.just(outcome), st.sampled_from(REASONS.get(outcome, [""])), st.integers(0, 50))
)


def with_received(entries):
    return [*entries, *((source, "received", "", n) for source, _, _, n in entries)]


@given(st.lists(ENTRY))
def test_books_close_when_every_event_went_somewhere(entries):
    books = books_of(with_received(entries))
    assert books.closes()
    assert books.received == sum(n for *_, n in entries) == books.accounted()
    assert sum(account.received for account in books.by_source.values()) == books.received
    assert books.to_dict()["closes"] is True


@given(st.lists(ENTRY), SOURCE, st.sampled_from([*OUTCOMES, "received"]), st.integers(1, 5))
def test_and_only_then(entries, source, outcome, n):
    assert not books_of([*with_received(entries), (source, outcome, "x", n)]).closes()


@given(st.lists(ENTRY, min_size=1), st.integers(1, 5))
def test_an_event_booked_under_another_source_is_noticed(entries, n):
    """In total it would close; the source says otherwise."""
    books = books_of([*with_received(entries), ("x", "received", "", n), ("y", "stored", "", n)])
    assert Account.closes(books) and not books.closes()


def test_reasons_are_counted_apart():
    books = books_of(
        [
            ("a", "rejected", "too-long", 2),
            ("a", "rejected", "bad-time", 1),
            (None, "shed", "buffer-full", 3),
            ("a", "rejected", "too-long", 1),
        ]
    )
    assert books.rejected == {"too-long": 3, "bad-time": 1} and books.shed == {"buffer-full": 3}
    assert books.by_source["a"].rejected.total() == 4
    assert books.to_dict() == {
        "received": 0,
        "stored": 0,
        "duplicate": 0,
        "sampled_out": 0,
        "pending": 0,
        "rejected": {"too-long": 3, "bad-time": 1},
        "shed": {"buffer-full": 3},
        "closes": False,
    }
