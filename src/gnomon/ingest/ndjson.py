"""Lines that are a JSON object each: one by one, and many at once where nothing in them is unusual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import itemgetter

from gnomon.errors import InvalidValue
from gnomon.ingest.calls import FROM_FIELDS, Column
from gnomon.ingest.columns import Candidate, Columns, Plan
from gnomon.ingest.lines import BadLine, Line, LineFault, bad_line
from gnomon.ingest.tables import CONTENT, RowCells, Table, fields_of, with_ids
from gnomon.ingest.values import KEY, json_object
from gnomon.ingest.wholesale import line_objects

_MOST_SHAPES = 50  # in a chunk; each costs as much as some rows
_SCALARS = {str, int, float, bool, type(None)}


class Shapes:
    """Where the names of objects go, for each set of names and their order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._seen: dict[tuple[str, ...], Columns] = {}

    def header(self, names: tuple[str, ...]) -> Columns:
        """Where these names go. Raises `InvalidValue` where two fill one field."""
        found = self._seen.get(names)
        if found is None:
            if len(self._seen) >= 1_000:
                self._seen.clear()
            found = self._seen[names] = Columns(names, self.plan)
        return found


def items(
    lines: Iterable[Line], shapes: Shapes, ids: Iterable[str | None] = repeat(None)
) -> Iterator[Candidate | BadLine]:
    """Lines one by one; `ids` where they were derived before."""
    for (number, data, code), id_ in zip(lines, ids, strict=False):
        try:
            if code:
                raise LineFault(code)
            found = json_object(data)
            yield Candidate(number, shapes.header(tuple(found)).fields(list(found.values()), id_))
        except LineFault as fault:
            yield bad_line(number, fault, data)
        except InvalidValue as error:
            yield bad_line(number, LineFault("bad-line", error.message), data)


def table(lines: Sequence[Line], shapes: Shapes) -> Table:
    """Lines at once. Raises one of `UNUSUAL`."""
    if any(code for _, _, code in lines):
        raise ValueError
    numbers = [number for number, _, _ in lines]
    text = b"\n".join([data for _, data, _ in lines])
    found = line_objects(text, len(lines))
    places: dict[tuple[str, ...], list[int]] = {}
    for place, names in enumerate(map(tuple, found)):
        places.setdefault(names, []).append(place)
    if len(places) > _MOST_SHAPES:
        raise ValueError
    keys, parts = 0, []
    for names, some in places.items():
        cells = RowCells([(numbers[place], tuple(found[place].values())) for place in some])
        keys += len(names) * len(some) + sum(_inner_keys(cells.column(at)) for at in range(len(names)))
        parts.append(fields_of(cells, shapes.header(names)))
    if keys != _keys_in(text):
        raise ValueError  # one is given twice
    fields = _in_order(parts, list(chain.from_iterable(places.values())))
    return Table(numbers, with_ids(fields, shapes.plan.ids), lambda ids: items(lines, shapes, ids))


def _keys_in(text: bytes) -> int:
    """How many keys there are in lines of JSON, at the most."""
    apart = b" :" in text or b"\t:" in text or b"\r:" in text
    return len(KEY.findall(text)) if apart else text.count(b'":')


def _inner_keys(values: Column) -> int:
    """How many keys the objects among values have. Raises ValueError for what is nested deeper, or a list."""
    if set(map(type, values)) <= _SCALARS:
        return 0
    inner = [value for value in values if type(value) is dict]
    within = chain.from_iterable(map(dict.values, inner))
    if not {*map(type, values)} <= {*_SCALARS, dict} or not {*map(type, within)} <= _SCALARS:
        raise ValueError
    return sum(map(len, inner))


def _in_order(parts: list[dict[str, Column]], places: list[int]) -> dict[str, Column]:
    """The fields of rows of several shapes, each row at its place."""
    if len(parts) == 1:
        return parts[0]
    back = itemgetter(*sorted(range(len(places)), key=places.__getitem__))
    counts = [len(part["ts"]) for part in parts]
    found: dict[str, Column] = {}
    for name in (*FROM_FIELDS, CONTENT):
        columns = [part.get(name) for part in parts]
        if any(column is not None for column in columns):
            filled = (column or repeat(None, count) for column, count in zip(columns, counts, strict=True))
            found[name] = back(list(chain.from_iterable(filled)))
    return found
