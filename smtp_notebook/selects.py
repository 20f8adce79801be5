"""A query in SOQL, taken apart and answered from records in memory: the part of the language that a watch speaks.

``SELECT`` fields, also of related records and ``FIELDS(STANDARD)``, or ``COUNT()``, ``FROM`` one object, ``WHERE``,
``ORDER BY``, ``LIMIT`` and ``OFFSET``. No aggregates, no subqueries. Pure, and linear in the length of the query.

The rules are those of the SOQL and SOSL Reference:
https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/sforce_api_calls_soql_select.htm
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Kind", "Path", "Query", "QueryError", "check_condition", "parse", "salesforce_suffix"]

#: A field by its names: ``("Owner", "Name")``.
Path = tuple[str, ...]
#: What a field holds; other types of Salesforce's count as one of these.
Kind = Literal["id", "string", "number", "boolean", "date", "datetime"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^'\\]|\\.)*')
      | (?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d))
      | (?P<date>\d{4}-\d\d-\d\d(?![\dT]))
      | (?P<number>[+-]?\d+(?:\.\d+)?)
      | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?::\d+)?)
      | (?P<sign><=|>=|!=|<>|[=<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_ID, _SHORT_ID = 18, 15
_DEEPEST = 50
_COMPARED = {"=", "!=", "<>", "<", "<=", ">", ">="}


class QueryError(Exception):
    """A query that the language does not have.

    Attributes:
        code: Salesforce's error code, such as ``MALFORMED_QUERY``.
        message: One sentence.
    """

    def __init__(self, message: str, code: str = "MALFORMED_QUERY") -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True, slots=True)
class _Literal:
    kind: Literal["string", "number", "boolean", "null", "date", "datetime", "range"]
    value: Any


@dataclass(frozen=True, slots=True)
class _Compare:
    path: Path
    sign: str
    values: tuple[_Literal, ...]


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Node


@dataclass(frozen=True, slots=True)
class _Joined:
    every: bool
    parts: tuple[_Node, ...]


_Node = _Compare | _Not | _Joined


@dataclass(frozen=True, slots=True)
class Order:
    """One field of ``ORDER BY``."""

    path: Path
    down: bool = False
    nulls_last: bool | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A query, taken apart.

    Attributes:
        fields: What is selected; empty for ``COUNT()``, and ``("FIELDS(STANDARD)",)`` stands for all standard fields.
        sobject: From which object.
        where: What the records have to meet, or None.
        order: In which order.
        limit: How many at most, or None.
        offset: How many are left out first.
    """

    fields: tuple[Path, ...]
    sobject: str
    where: _Node | None = None
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0

    @property
    def counts(self) -> bool:
        """Whether only the number of records is asked for."""
        return not self.fields

    def run(
        self,
        records: Iterable[Mapping[str, Any]],
        kind: Callable[[Path], Kind],
        value: Callable[[Mapping[str, Any], Path], Any],
        now: dt.datetime,
    ) -> list[Mapping[str, Any]]:
        """Return the records that are meant, in order.

        Args:
            records: Those of the object.
            kind: Returns what a field holds, and raises QueryError where there is no such field.
            value: Returns a record's value of a field; datetimes with their zone, dates as dates, None for null.
            now: What ``TODAY`` goes by.

        Raises:
            QueryError: A field that does not exist, or is compared with a value of another type.
        """
        meets = _test(self.where, kind, value, now) if self.where is not None else None
        found = [record for record in records if meets is None or meets(record)]
        for order in reversed(self.order):
            of = kind(order.path)
            last = order.nulls_last if order.nulls_last is not None else False
            # Sorting backwards turns the place of the nulls too.
            found.sort(
                key=lambda r, path=order.path, of=of, low=last != order.down: _sortable(  # type: ignore[misc]  # bound now
                    value(r, path), of, nulls_low=not low
                ),
                reverse=order.down,
            )
        end = None if self.limit is None else self.offset + self.limit
        return found[self.offset : end]


# --------------------------------------------------------------------------------------------- reading


class _Reader:
    """The tokens of a query, one after the other."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    @property
    def text(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def is_word(self, *words: str) -> bool:
        return self.kind == "name" and self.text.upper() in words

    def take(self) -> str:
        text = self.text
        if not self.kind:
            raise QueryError("unexpected end of the query")
        self.at += 1
        return text

    def skip(self, *words: str) -> bool:
        if self.is_word(*words) or (self.kind == "sign" and self.text in words):
            self.at += 1
            return True
        return False

    def need(self, *words: str) -> None:
        if not self.skip(*words):
            raise QueryError(f"expecting {' or '.join(words)}, found {self.text or 'the end'!r}")

    def name(self) -> str:
        if self.kind != "name":
            raise QueryError(f"expecting a name, found {self.text or 'the end'!r}")
        return self.take()

    def whole(self) -> int:
        if self.kind != "number" or not self.text.isdigit():
            raise QueryError(f"expecting a whole number, found {self.text or 'the end'!r}")
        return int(self.take())


def _tokens(text: str) -> Iterable[tuple[str, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise QueryError(f"unexpected text at position {at + 1}: {text[at : at + 20].strip()!r}")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


def parse(text: str) -> Query:
    """Return a query, taken apart.

    Raises:
        QueryError: It is none, or has more than this part of the language.
    """
    read = _Reader(text)
    read.need("SELECT")
    fields = _fields(read)
    read.need("FROM")
    sobject = read.name()
    where = _either(read) if read.skip("WHERE") else None
    order: list[Order] = []
    if read.skip("ORDER"):
        read.need("BY")
        order.append(_order(read))
        while read.skip(","):
            order.append(_order(read))
    limit = read.whole() if read.skip("LIMIT") else None
    offset = read.whole() if read.skip("OFFSET") else 0
    if read.kind:
        raise QueryError(f"unexpected token: {read.text!r}")
    return Query(fields, sobject, where, tuple(order), limit, offset)


def _fields(read: _Reader) -> tuple[Path, ...]:
    if read.skip("COUNT"):
        read.need("(")
        read.need(")")
        return ()
    found = [_field(read)]
    while read.skip(","):
        found.append(_field(read))
    twice = {path for path in found if found.count(path) > 1} if len(set(found)) < len(found) else set()
    if twice:
        raise QueryError(f"duplicate field selected: {'.'.join(min(twice))}")
    return tuple(found)


def _field(read: _Reader) -> Path:
    name = read.name()
    if name.upper() == "FIELDS":
        read.need("(")
        which = read.name().upper()
        read.need(")")
        if which != "STANDARD":
            raise QueryError("of FIELDS() only FIELDS(STANDARD) is known here")
        return ("FIELDS(STANDARD)",)
    return tuple(name.split("."))


def _order(read: _Reader) -> Order:
    path = tuple(read.name().split("."))
    down = read.skip("DESC")
    if not down:
        read.skip("ASC")
    last = None
    if read.skip("NULLS"):
        last = read.is_word("LAST")
        read.need("FIRST", "LAST")
    return Order(path, down, last)


def _either(read: _Reader, depth: int = 0) -> _Node:
    """Read conditions; without parentheses, AND and OR are not mixed, as in Salesforce."""
    if depth > _DEEPEST:
        raise QueryError("the condition is nested too deeply", "QUERY_TOO_COMPLICATED")
    parts = [_single(read, depth)]
    word = read.text.upper() if read.is_word("AND", "OR") else ""
    while word and read.skip(word):
        parts.append(_single(read, depth))
    if read.is_word("AND", "OR"):
        raise QueryError(f"unexpected token: {read.text!r}; AND and OR need parentheses where both are used")
    return _Joined(word != "OR", tuple(parts)) if len(parts) > 1 else parts[0]


def _single(read: _Reader, depth: int) -> _Node:
    if read.skip("NOT"):
        return _Not(_single(read, depth + 1))
    if read.skip("("):
        inner = _either(read, depth + 1)
        read.need(")")
        return inner
    path = tuple(read.name().split("."))
    if read.skip("NOT"):
        read.need("IN")
        return _Compare(path, "NOT IN", _several(read))
    if read.skip("IN"):
        return _Compare(path, "IN", _several(read))
    if read.skip("LIKE"):
        return _Compare(path, "LIKE", (_literal(read),))
    if read.kind != "sign" or read.text not in _COMPARED:
        raise QueryError(f"expecting an operator, found {read.text or 'the end'!r}")
    return _Compare(path, read.take().replace("<>", "!="), (_literal(read),))


def _several(read: _Reader) -> tuple[_Literal, ...]:
    read.need("(")
    found = [_literal(read)]
    while read.skip(","):
        found.append(_literal(read))
    read.need(")")
    return tuple(found)


def _literal(read: _Reader) -> _Literal:
    kind, text = read.kind, read.take()
    if kind == "string":
        return _Literal("string", text)
    if kind == "number":
        return _Literal("number", float(text))
    if kind == "name":
        return _word(text)
    try:
        if kind == "date":
            return _Literal("date", dt.date.fromisoformat(text))
        if kind == "datetime":
            return _Literal("datetime", dt.datetime.fromisoformat(text))
    except ValueError:
        raise QueryError(f"there is no such day: {text}") from None
    raise QueryError(f"expecting a value, found {text!r}")


def _word(text: str) -> _Literal:
    word, _, count = text.upper().partition(":")
    if word in {"TRUE", "FALSE"}:
        return _Literal("boolean", word == "TRUE")
    if word == "NULL":
        return _Literal("null", None)
    if word in {"TODAY", "YESTERDAY"} or (word == "LAST_N_DAYS" and count):
        return _Literal("range", (word, int(count or 0)))
    raise QueryError(f"unexpected token: {text!r}; text stands in single quotes")


def check_condition(text: str) -> str:
    """Return what a person wrote behind WHERE, if it can stand in parentheses and end there.

    Only quotes and parentheses are looked at: what the words mean is the org's to say.

    Raises:
        QueryError: A quote or parenthesis without its other half, or nothing at all.
    """
    depth, at, quoted = 0, 0, False
    while at < len(text):
        sign = text[at]
        if sign == "\\" and quoted:
            at += 1
        elif sign == "'":
            quoted = not quoted
        elif not quoted:
            depth += (sign == "(") - (sign == ")")
            if depth < 0:
                raise QueryError("there is a ) without its (")
        at += 1
    if quoted:
        raise QueryError("there is a ' without the one that ends it; in a text it is written \\'")
    if depth:
        raise QueryError("there is a ( without its )")
    if not text.strip():
        raise QueryError("there is nothing in it")
    return text.strip()


# ------------------------------------------------------------------------------------------- answering


def _test(
    node: _Node,
    kind: Callable[[Path], Kind],
    value: Callable[[Mapping[str, Any], Path], Any],
    now: dt.datetime,
) -> Callable[[Mapping[str, Any]], bool]:
    if isinstance(node, _Not):
        inner = _test(node.part, kind, value, now)
        return lambda record: not inner(record)
    if isinstance(node, _Joined):
        tests = [_test(part, kind, value, now) for part in node.parts]
        combined = all if node.every else any
        return lambda record: combined(test(record) for test in tests)
    path, of = node.path, kind(node.path)
    meets = _comparison(node, of, now)
    return lambda record: meets(_comparable(value(record, path), of))


def _comparison(node: _Compare, of: Kind, now: dt.datetime) -> Callable[[Any], bool]:
    name = ".".join(node.path)
    if node.sign == "LIKE":
        if of not in {"string", "id"} or node.values[0].kind != "string":
            raise QueryError(f"invalid operator on {of} field {name}", "INVALID_FIELD")
        pattern = _like(node.values[0].value[1:-1])
        return lambda held: held is not None and pattern.fullmatch(str(held)) is not None
    spans = [_span(each, of, name, now) for each in node.values]
    if node.sign in {"IN", "NOT IN"}:
        wanted = [low for low, _ in spans]
        try:
            looked: Any = frozenset(wanted)
        except TypeError:
            looked = wanted
        return (lambda held: held in looked) if node.sign == "IN" else (lambda held: held not in looked)
    low, high = spans[0]
    return functools.partial(_ordered, node.sign, low, high)


def _ordered(sign: str, low: Any, high: Any, held: Any) -> bool:
    """Compare a value with a span, which is one value or a day or more; null is neither more nor less."""
    if sign in {"=", "!="}:
        equal = held == low if high is None else held is not None and low <= held < high
        return equal if sign == "=" else not equal
    if held is None or low is None:
        return False
    if sign == "<":
        return bool(held < low)
    if sign == ">=":
        return bool(held >= low)
    beyond = held > low if high is None else held >= high
    return bool(beyond if sign == ">" else not beyond)


def _span(literal: _Literal, of: Kind, name: str, now: dt.datetime) -> tuple[Any, Any]:
    if literal.kind == "null":
        return None, None
    if literal.kind == "range" and of in {"date", "datetime"}:
        return _days(*literal.value, of=of, now=now)
    if literal.kind != ("string" if of == "id" else of):
        quoted = " and should be enclosed in quotes" if of in {"string", "id"} else ""
        unquoted = " and should not be enclosed in quotes" if literal.kind == "string" else ""
        cause = f"value of filter criterion for field '{name}' must be of type {of}{unquoted or quoted}"
        raise QueryError(cause, "INVALID_FIELD")
    if literal.kind == "string":
        return _comparable(_ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), literal.value[1:-1]), of), None
    return literal.value, None


def _days(word: str, count: int, *, of: Kind, now: dt.datetime) -> tuple[Any, Any]:
    today = now.astimezone(dt.UTC).date()
    back = {"TODAY": 0, "YESTERDAY": 1}.get(word, count)
    first = today - dt.timedelta(days=back)
    end = today if word == "YESTERDAY" else today + dt.timedelta(days=1)
    if of == "date":
        return first, end
    midnight = dt.time(tzinfo=dt.UTC)
    return dt.datetime.combine(first, midnight), dt.datetime.combine(end, midnight)


def _like(pattern: str) -> re.Pattern[str]:
    pieces: list[str] = []
    for found in re.finditer(r"\\(.)|(%)|(_)|(.)", pattern, re.DOTALL):
        escaped, anything, one, plain = found.groups()
        if anything:
            pieces.append("" if pieces and pieces[-1] == ".*" else ".*")
        elif one:
            pieces.append(".")
        else:
            pieces.append(re.escape(_ESCAPES.get(escaped, escaped) if escaped else plain))
    return re.compile("".join(pieces), re.IGNORECASE | re.DOTALL)


def _comparable(held: Any, of: Kind) -> Any:
    """Return a value in the form in which it is compared: text without case, an id by its first 15 characters."""
    if held is None:
        return None
    if of == "id":
        return str(held)[:_SHORT_ID] if len(str(held)) in {_ID, _SHORT_ID} else str(held)
    if of == "string":
        # An empty text is null in Salesforce.
        return str(held).casefold() or None
    return held


def _sortable(held: Any, of: Kind, *, nulls_low: bool) -> tuple[bool, Any]:
    value = _comparable(held, of)
    if value is None:
        return (not nulls_low, "")
    return (nulls_low, value)


def salesforce_suffix(identifier: str) -> str:
    """Return the three check characters of a 15-character id: which of each five letters are capitals.

    https://help.salesforce.com/s/articleView?id=000385585&type=1
    """
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    chunks: Sequence[str] = [identifier[i : i + 5] for i in (0, 5, 10)]
    return "".join(alphabet[sum(1 << i for i, c in enumerate(chunk) if c.isupper())] for chunk in chunks)
