"""Conditions, group keys and numbers of single columns, JSON keys included, as expression trees.

A property keeps its JSON type: `"1"` is not `1`, while `1` and `1.0` are the same number. Null is a value: `is` can
ask for it, `is_not` and `not` match it, and no other test does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sqlglot import exp

from gnomon.catalog import Dataset, Dimension, find_dimension
from gnomon.query.model import All, Either, Filter, Not, Test
from gnomon.store.dialect import Dialect


def column(name: str) -> exp.Column:
    """A column by its name."""
    return exp.column(name)


def literal(value: Any) -> exp.Expr:
    """A literal of the tree; the generator escapes it for the store."""
    if value is None:
        return exp.null()
    if isinstance(value, bool):
        return exp.true() if value else exp.false()
    if isinstance(value, int):
        return exp.Neg(this=exp.Literal.number(-value)) if value < 0 else exp.Literal.number(value)
    if isinstance(value, float):
        return exp.Cast(this=exp.Literal.string(repr(value)), to=typed("DOUBLE"))
    return exp.Literal.string(value)


def named(value: exp.Expr, name: str) -> exp.Alias:
    """An expression under a name. Unlike `exp.alias_` it neither copies nor parses, which took most of the time."""
    return exp.Alias(this=value, alias=exp.Identifier(this=name))


def table(name: str) -> exp.Table:
    """A table or a common table expression by its name, without parsing it."""
    return exp.Table(this=exp.Identifier(this=name))


def typed(name: Literal["BIGINT", "DOUBLE", "VARCHAR"]) -> exp.DataType:
    """A type of a column, without parsing its name."""
    return exp.DataType(this=exp.DType[name], nested=False)


@dataclass(frozen=True)
class FilterWords:
    """Builds conditions in the words of one dialect."""

    dialect: Dialect

    def condition(self, node: Filter) -> exp.Expr:
        """The condition of a filter tree; every leaf is true or not true, and `not` sees null as not true."""
        if isinstance(node, All):
            return exp.Paren(this=exp.and_(*[self.condition(part) for part in node.parts], copy=False))
        if isinstance(node, Either):
            return exp.Paren(this=exp.or_(*[self.condition(part) for part in node.parts], copy=False))
        if isinstance(node, Not):
            return exp.Not(this=exp.Coalesce(this=self.condition(node.part), expressions=[exp.false()]))
        return self._test(node)

    def _test(self, test: Test) -> exp.Expr:
        if test.op == "is":
            return self._is(test.dimension, test.values)
        if test.op in ("is_not", "contains_not"):
            positive = Test("is" if test.op == "is_not" else "contains", test.dimension, test.values)
            return exp.Not(this=exp.Coalesce(this=self._test(positive), expressions=[exp.false()]))
        if test.op == "is_set":
            return _is_not_null(self.identity_of(test.dimension))
        if test.op in ("contains", "matches"):
            word = self.dialect.contains if test.op == "contains" else self.dialect.matches
            return _any([word(self._text(test.dimension), value) for value in test.values])
        return self._ordered(test)

    def _is(self, dimension: Dimension, values: tuple[Any, ...]) -> exp.Expr:
        given = [value for value in values if value is not None]
        parts: list[exp.Expr] = []
        if len(given) < len(values):
            parts.append(exp.Is(this=self.identity_of(dimension), expression=exp.Null()))
        if given and dimension.kind == "json":
            parts += self._json_is(dimension, given)
        elif given:
            found = self.plain(dimension)
            if dimension.kind == "boolean" and len(given) == 1:
                parts.append(found if given[0] else exp.Not(this=found))
            elif dimension.column == "status_class":
                parts += [self._of_class(value) for value in given]
            elif len(given) == 1:
                parts.append(exp.EQ(this=found, expression=literal(given[0])))
            else:
                parts.append(exp.In(this=found, expressions=[literal(value) for value in given]))
        return _any(parts)

    def _of_class(self, name: str) -> exp.Expr:
        """The status codes of a class such as `5xx`, as a range that needs no text."""
        if len(name) != 3 or name[0] not in "12345" or name[1:] != "xx":
            return exp.false()
        first = int(name[0]) * 100
        return exp.Between(this=column("status_code"), low=literal(first), high=literal(first + 99))

    def _json_is(self, dimension: Dimension, given: list[Any]) -> list[exp.Expr]:
        parts: list[exp.Expr] = []
        texts = [value for value in given if isinstance(value, str)]
        flags = [value for value in given if isinstance(value, bool)]
        numbers = [value for value in given if isinstance(value, int | float) and not isinstance(value, bool)]
        if texts:
            inside = exp.In(this=self._text(dimension), expressions=[literal(text) for text in texts])
            parts.append(inside)
        if flags:
            words = [literal("true" if flag else "false") for flag in flags]
            parts.append(exp.In(this=self._json(self.dialect.json_at, dimension), expressions=words))
        large = [
            str(n) for n in numbers if isinstance(n, int) and abs(n) >= 2**53
        ]  # a double would take its neighbours
        if large:
            digits = [literal(n) for n in large]  # only an integer is written so
            parts.append(exp.In(this=self._json(self.dialect.json_at, dimension), expressions=digits))
        small = [float(n) for n in numbers if not isinstance(n, int) or abs(n) < 2**53]
        if small:
            parts.append(exp.In(this=self.number_of(dimension), expressions=[literal(n) for n in small]))
        return parts

    def _ordered(self, test: Test) -> exp.Expr:
        (value,) = test.values
        kind = {"gt": exp.GT, "gte": exp.GTE, "lt": exp.LT, "lte": exp.LTE}[test.op]
        if test.dimension.kind != "json":
            return exp.Paren(this=kind(this=self.plain(test.dimension), expression=literal(value)))
        left = self._text(test.dimension) if isinstance(value, str) else self.number_of(test.dimension)
        return exp.Paren(this=kind(this=left, expression=literal(value)))

    # -- columns ------------------------------------------------------------------------------------------------

    def plain(self, dimension: Dimension) -> exp.Expr:
        """The column of a declared dimension, or the expression of a derived one."""
        if dimension.column == "actor":
            return exp.Coalesce(this=column("user_id"), expressions=[column("device_id")])
        if dimension.column == "status_class":
            hundreds = self.dialect.divided(column("status_code"), 100)
            names = [exp.If(this=literal(n), true=literal(f"{n}xx")) for n in range(1, 6)]
            return exp.Case(
                this=hundreds, ifs=names
            )  # names by choice: making them by concatenation took 4 times as long
        return column(dimension.column)

    def group_key(self, dimension: Dimension) -> exp.Expr:
        """What to group by. A JSON key groups by canonical JSON text, so types stay apart; JSON null is null.
        A status class groups by its first digit; `gnomon.query.answer` writes the rest of its name."""
        if dimension.column == "status_class":
            return self.dialect.divided(column("status_code"), 100)
        if dimension.kind != "json":
            return self.plain(dimension)
        return exp.Var(this=_json_group_key(self, dimension))  # written once: it is a third of the time of compiling

    def identity(self, data: Dataset, name: str) -> exp.Expr:
        """What tells values apart, null where there is none: for unique counts."""
        return self.identity_of(find_dimension(data, name))

    def identity_of(self, dimension: Dimension) -> exp.Expr:
        """As `identity`, of a dimension already found."""
        return self.group_key(dimension)

    def number(self, data: Dataset, name: str) -> exp.Expr:
        """A measure, or the number at a JSON key (null where it holds anything else)."""
        dimension = find_dimension(data, name)
        return self.number_of(dimension) if dimension.kind == "json" else self.plain(dimension)

    def number_of(self, dimension: Dimension) -> exp.Expr:
        """The number at a JSON key, null for other types."""
        return self._json(self.dialect.json_number, dimension)

    def _text(self, dimension: Dimension) -> exp.Expr:
        if dimension.kind != "json":
            return self.plain(dimension)
        return self._json(self.dialect.json_text, dimension)

    def _json(self, word: Any, dimension: Dimension) -> exp.Expr:
        found: exp.Expr = word(column(dimension.column), dimension.json_key)
        return found


@lru_cache(maxsize=1_000)
def _json_group_key(words: FilterWords, dimension: Dimension) -> str:
    found = words.dialect.json_key(column(dimension.column), dimension.json_key or "")
    return found.sql(dialect=words.dialect.sqlglot, copy=False)


def _any(parts: list[exp.Expr]) -> exp.Expr:
    return parts[0] if len(parts) == 1 else exp.Paren(this=exp.or_(*parts, copy=False))


def _is_not_null(value: exp.Expr) -> exp.Expr:
    return exp.Not(this=exp.Is(this=value, expression=exp.Null()))
