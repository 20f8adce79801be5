"""The workflow service's expressions, as Jinja2; and its filters, as SOQL. Pure: text in, text out.

What is known is translated so that it prints the same; whatever else stands there is an error that names it. The
rules are those of "Schema reference for the Workflow Definition Language" and "Reference guide to workflow
expression functions" (learn.microsoft.com, Azure Logic Apps): a text that begins with ``@`` is an expression,
``@{…}`` is one within a text, and ``@@`` is the letter itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = ["ExpressionError", "Printed", "Scope", "is_expression", "literal", "pieces", "record_list", "soql"]


class ExpressionError(ValueError):
    """An expression that has no translation; the text says why, without repeating what stands in it."""


class Printed(NamedTuple):
    """An expression as Jinja2.

    Attributes:
        text: What stands between ``{{`` and ``}}``.
        columns: The cells that it uses.
    """

    text: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may speak of.

    Attributes:
        parameters: The workflow's parameters that are plain values, by name.
        loop: The name of the loop around the action; "" where the trigger gives one record at a time.
    """

    parameters: Mapping[str, Any]
    loop: str = ""


def is_expression(text: str) -> bool:
    """Tell whether a text is one expression and nothing else."""
    return text.startswith("@") and not text.startswith(("@@", "@{"))


def pieces(text: str, scope: Scope) -> list[str | Printed]:
    """Return a text's literal pieces and its expressions, in order.

    Raises:
        ExpressionError: One of them has no translation.
    """
    if is_expression(text):
        parser = _Parser(text, 1)
        made = _translated(parser.whole(), scope)
        return [_piece(made)]
    found: list[str | Printed] = []
    plain: list[str] = []
    place = 1 if text.startswith("@@") else 0
    if place and not text.startswith("@@{"):
        plain.append("@")
        place = 2
    elif place:
        place = 0
    while place < len(text):
        if text.startswith("@@{", place):
            plain.append("@{")
            place += 3
        elif text.startswith("@{", place):
            parser = _Parser(text, place + 2)
            made = _translated(parser.braced(), scope)
            found += ["".join(plain), _piece(made)]
            plain = []
            place = parser.place
        else:
            end = text.find("@", place + 1)
            end = len(text) if end < 0 else end
            plain.append(text[place:end])
            place = end
    found.append("".join(plain))
    return _joined(found)


def _joined(found: Sequence[str | Printed]) -> list[str | Printed]:
    out: list[str | Printed] = []
    for piece in found:
        if isinstance(piece, str) and out and isinstance(out[-1], str):
            out[-1] += piece
        elif piece != "":
            out.append(piece)
    return out


def record_list(text: str) -> bool:
    """Tell whether an expression means all records that a trigger found: ``@triggerBody()?['value']``."""
    try:
        node = _Parser(text, 1).whole() if is_expression(text) else None
        return isinstance(node, _Access) and _body(node) == ["value"]
    except ExpressionError:
        return False


_JINJA = re.compile(r"\{[{%#]|\{$")
_ENDRAW = re.compile(r"\{(?=%[+-]?\s*endraw)")


def literal(text: str) -> str:
    """Return *text* so that Jinja2 prints it as it is, whatever follows."""
    if not _JINJA.search(text):
        return text
    # With + Jinja2 keeps the line breaks and blanks around.
    return "".join(f"{{%+ raw %}}{part}{{%+ endraw +%}}" for part in _parts(text))


def _parts(text: str) -> list[str]:
    cuts = [0, *(found.end() for found in _ENDRAW.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


# ------------------------------------------------------------------------------------------- the parser


class _Constant(NamedTuple):
    value: Any


class _Call(NamedTuple):
    name: str
    arguments: tuple[Any, ...]


class _Access(NamedTuple):
    base: _Call
    names: tuple[Any, ...]


_Node = _Constant | _Call | _Access
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_$][A-Za-z0-9_$]*)
    |(?P<sign>[()\[\],?.}]))""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "null": None}
#: An expression nested more deeply is nobody's.
_DEEPEST = 40
_BROKEN = "it is no expression as the service writes them"


class _Parser:
    """Reads one expression of a text, from a place on."""

    def __init__(self, text: str, place: int) -> None:
        self._text = text
        self.place = place
        self._depth = 0

    def whole(self) -> _Node:
        node = self._value()
        if self._text[self.place :].strip():
            raise ExpressionError(_BROKEN)
        return node

    def braced(self) -> _Node:
        node = self._value()
        self._sign("}")
        return node

    def _next(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self.place)
        if found is None:
            raise ExpressionError(_BROKEN)
        return found

    def _at(self, sign: str) -> bool:
        found = _TOKEN.match(self._text, self.place)
        return found is not None and found["sign"] == sign

    def _sign(self, sign: str) -> None:
        if not self._at(sign):
            raise ExpressionError(_BROKEN)
        self.place = self._next().end()

    def _value(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            msg = f"it is nested more than {_DEEPEST} deep"
            raise ExpressionError(msg)
        found = self._next()
        self.place = found.end()
        node: _Node
        if found["text"] is not None:
            node = _Constant(found["text"][1:-1].replace("''", "'"))
        elif found["number"] is not None:
            number = found["number"]
            node = _Constant(int(number) if number.lstrip("-").isdigit() else float(number))
        elif found["name"] is not None and found["name"].lower() in _WORDS and not self._at("("):
            node = _Constant(_WORDS[found["name"].lower()])
        elif found["name"] is not None:
            node = self._called(found["name"])
        else:
            raise ExpressionError(_BROKEN)
        self._depth -= 1
        return node

    def _called(self, name: str) -> _Node:
        arguments: list[_Node] = []
        self._sign("(")
        while not self._at(")"):
            arguments.append(self._value())
            if self._at(")"):
                break
            self._sign(",")
        self._sign(")")
        names: list[Any] = []
        while self._at("?") or self._at("[") or self._at("."):
            if self._at("?"):
                self._sign("?")
            names.append(self._name())
        call = _Call(name.lower(), tuple(arguments))
        return _Access(call, tuple(names)) if names or call.name in _BASES else call

    def _name(self) -> Any:
        if self._at("["):
            self._sign("[")
            node = self._value()
            self._sign("]")
            return node.value if isinstance(node, _Constant) else node
        self._sign(".")
        found = self._next()
        self.place = found.end()
        if found["name"] is None:
            raise ExpressionError(_BROKEN)
        return found["name"]


# -------------------------------------------------------------------------------------- the translation

_BASES = frozenset({"triggerbody", "triggeroutputs", "trigger", "items", "item", "parameters"})
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")


class _Made(NamedTuple):
    """An expression in Jinja2.

    Attributes:
        text: The expression.
        columns: The cells that it uses.
        kind: ``constant``, ``text``, ``boolean``, or ``cell`` for what may be missing.
        value: Of a constant.
    """

    text: str
    columns: frozenset[str] = frozenset()
    kind: str = "text"
    value: Any = None


def _piece(made: _Made) -> str | Printed:
    if made.kind == "constant":
        return "" if made.value is None else str(made.value)
    return Printed(_printable(made), made.columns)


def _printable(made: _Made) -> str:
    """Return the expression with what is missing as an empty text, as the service prints it."""
    return f'{made.text} | default("")' if made.kind == "cell" else made.text


def _translated(node: _Node, scope: Scope) -> _Made:
    match node:
        case _Constant(value=value):
            return _constant(value)
        case _Access():
            return _cell(node, scope)
        case _Call(name=name, arguments=arguments):
            known = _FUNCTIONS.get(name)
            if known is None:
                msg = f"the function {_shown(name)}() has no translation"
                raise ExpressionError(msg)
            least, most, make = known
            if not least <= len(arguments) <= most:
                msg = f"{_shown(name)}() takes another number of values"
                raise ExpressionError(msg)
            if name in _RAW:
                return make(arguments, scope)
            made = [_translated(argument, scope) for argument in arguments]
            if name not in _TAKE_NOTHING and any(
                each.kind == "constant" and each.value is None for each in made
            ):
                msg = f"{_shown(name)}() is given null"
                raise ExpressionError(msg)
            return make(made)
    raise AssertionError(node)  # pragma: no cover - the three kinds are all there are


def _shown(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}…"  # noqa: PLR2004 - a name's length


def _constant(value: Any) -> _Made:
    if isinstance(value, str):
        return _Made(_quoted(value), kind="constant", value=value)
    if value is None:
        return _Made("none", kind="constant")
    return _Made(str(value).lower() if isinstance(value, bool) else repr(value), kind="constant", value=value)


def _quoted(text: str) -> str:
    """Return a text as Jinja2 writes one."""
    plain = re.sub(
        r'[\\"{}%#]|[\x00-\x1f\x7f-\xa0\u2028\u2029]', lambda found: f"\\x{ord(found[0]):02x}", text
    )
    return f'"{plain}"'


def _body(node: _Access) -> list[Any]:
    """Return the names behind the body of the trigger, or raise."""
    base, names = node
    path = [part for name in names for part in (name.split("/") if isinstance(name, str) else [name])]
    if base.arguments:
        raise ExpressionError(_BROKEN)
    if base.name == "triggerbody":
        return list(names)
    wanted = ["outputs", "body"] if base.name == "trigger" else ["body"]
    if base.name not in {"trigger", "triggeroutputs"} or path[: len(wanted)] != wanted:
        msg = f"{base.name}() is used for something else than the trigger's record"
        raise ExpressionError(msg)
    return path[len(wanted) :]


def _cell(node: _Access, scope: Scope) -> _Made:
    base, names = node
    if base.name == "parameters":
        return _parameter(node, scope)
    if base.name in {"item", "items"}:
        path = list(names)
        of = base.arguments[0] if base.arguments else None
        named = of.value if isinstance(of, _Constant) else scope.loop
        if not scope.loop or named != scope.loop or len(base.arguments) != (base.name == "items"):
            msg = f"{base.name}() belongs to no loop that is around the mail"
            raise ExpressionError(msg)
    else:
        path = _body(node)
        if scope.loop:
            msg = "the trigger gives all records at once here; items() names the one"
            raise ExpressionError(msg)
    parts = [part for name in path for part in (name.split("/") if isinstance(name, str) else [name])]
    if not parts:
        msg = "a whole record cannot be printed; name one of its fields"
        raise ExpressionError(msg)
    if not all(isinstance(part, str) and _COLUMN.fullmatch(part) for part in parts):
        msg = "it names something that no field of an object is called"
        raise ExpressionError(msg)
    column = ".".join(parts)
    return _Made(f'row["{column}"]', frozenset({column}), "cell")


def _parameter(node: _Access, scope: Scope) -> _Made:
    arguments = node.base.arguments
    name = arguments[0].value if len(arguments) == 1 and isinstance(arguments[0], _Constant) else None
    if not isinstance(name, str) or node.names or name not in scope.parameters:
        msg = "it uses a parameter that has no plain value here"
        raise ExpressionError(msg)
    return _constant(scope.parameters[name])


def _columns(made: Sequence[_Made]) -> frozenset[str]:
    return frozenset().union(*(each.columns for each in made))


def _text_of(made: _Made) -> str:
    """Return an expression that is always a text, the empty one for what is missing."""
    if made.kind == "constant":
        return _quoted("" if made.value is None else str(made.value))
    return f"({_printable(made)})"


def _concat(made: Sequence[_Made]) -> _Made:
    if all(each.kind == "constant" for each in made):
        return _constant("".join("" if each.value is None else str(each.value) for each in made))
    joined = " ~ ".join(map(_text_of, made))
    return _Made(f'("" ~ {joined})' if len(made) == 1 else f"({joined})", _columns(made))


def _coalesce(made: Sequence[_Made]) -> _Made:
    kept = [each for each in made if each.kind != "constant" or each.value is not None]
    if not kept:
        return _constant(None)
    text = kept[-1].text
    for each in reversed(kept[:-1]):
        text = f"({each.text} | default({text}))"
    return _Made(text, _columns(kept), "cell" if kept[-1].kind == "cell" else "text")


def _filtered(name: str) -> Callable[[Sequence[_Made]], _Made]:
    def make(made: Sequence[_Made]) -> _Made:
        return _Made(f"({made[0].text} | {name})", made[0].columns)

    return make


def _replace(made: Sequence[_Made]) -> _Made:
    if made[1].kind != "constant" or not made[1].value or any(each.kind == "boolean" for each in made):
        msg = "replace() needs a text to look for"
        raise ExpressionError(msg)
    text, old, new = (each.text if each.kind == "cell" else _text_of(each) for each in made)
    return _Made(f"({text} | replace({old}, {new}))", _columns(made))


def _empty(made: Sequence[_Made]) -> _Made:
    return _Made(f'({_text_of(made[0])} == "")', made[0].columns, "boolean")


def _equals(made: Sequence[_Made]) -> _Made:
    nothing = [each.kind == "constant" and each.value is None for each in made]
    if all(nothing):
        return _constant(True)  # noqa: FBT003 - the value itself
    if any(nothing):
        other = made[0] if nothing[1] else made[1]
        return _Made(f"({other.text} is undefined)", _columns(made), "boolean")
    return _Made(f"({made[0].text} == {made[1].text})", _columns(made), "boolean")


def _condition(made: _Made) -> str:
    if made.kind == "boolean" or (made.kind == "constant" and isinstance(made.value, bool)):
        return made.text
    if made.kind == "cell":
        return f"({made.text} == true)"
    msg = "a condition is needed where something else stands"
    raise ExpressionError(msg)


def _logical(word: str) -> Callable[[Sequence[_Made]], _Made]:
    def make(made: Sequence[_Made]) -> _Made:
        return _Made(f"({f' {word} '.join(map(_condition, made))})", _columns(made), "boolean")

    return make


def _not(made: Sequence[_Made]) -> _Made:
    return _Made(f"(not {_condition(made[0])})", made[0].columns, "boolean")


def _if(made: Sequence[_Made]) -> _Made:
    # Either may be missing, and is printed as nothing then.
    text = f"({made[1].text} if {_condition(made[0])} else {made[2].text})"
    missing = any(each.kind == "cell" for each in made[1:])
    nothing = any(each.kind == "constant" and each.value is None for each in made[1:])
    if nothing:
        branches = [_text_of(each) for each in made[1:]]
        return _Made(f"({branches[0]} if {_condition(made[0])} else {branches[1]})", _columns(made))
    return _Made(text, _columns(made), "cell" if missing else "text")


def _contains(made: Sequence[_Made]) -> _Made:
    return _Made(f"({made[1].text} in {made[0].text})", _columns(made), "boolean")


def _edge(method: str) -> Callable[[Sequence[_Made]], _Made]:
    def make(made: Sequence[_Made]) -> _Made:
        # These two do not mind the case, unlike contains().
        text = f"({made[0].text} | lower).{method}({made[1].text} | lower)"
        return _Made(f"({text})", _columns(made), "boolean")

    return make


def _format_date_time(arguments: Sequence[_Node], scope: Scope) -> _Made:
    made, form = _translated(arguments[0], scope), arguments[1]
    if made.kind != "cell" or not isinstance(form, _Constant) or not isinstance(form.value, str):
        msg = "formatDateTime() needs a field and a format"
        raise ExpressionError(msg)
    return _Made(f"({made.text} | date({_quoted(_strftime(form.value))}))", made.columns)


#: .NET's custom date formats that strftime has on every system.
_DATES = {
    "yyyy": "%Y",
    "yy": "%y",
    "MMMM": "%B",
    "MMM": "%b",
    "MM": "%m",
    "dddd": "%A",
    "ddd": "%a",
    "dd": "%d",
    "HH": "%H",
    "hh": "%I",
    "mm": "%M",
    "ss": "%S",
    "tt": "%p",
}
_DATE_PART = re.compile(r"(?P<run>([A-Za-z])\2*)|'(?P<quoted>[^']*)'|(?P<sign>[ ,./:()-])")
_SHORTEST_CUSTOM = 2


def _strftime(form: str) -> str:
    """Return a .NET date format as one of strftime's."""
    out: list[str] = []
    place = 0
    while place < len(form):
        found = _DATE_PART.match(form, place)
        part = found and (_DATES.get(found["run"]) if found["run"] else (found["quoted"] or found["sign"]))
        if found is None or part is None or len(form) < _SHORTEST_CUSTOM:
            msg = "formatDateTime() has a format that has no equal here; yyyy MM MMM MMMM dd ddd dddd HH hh mm ss tt do"
            raise ExpressionError(msg)
        out.append(part if found["run"] else part.replace("%", "%%"))
        place = found.end()
    return "".join(out)


_MANY = 100
_RAW = frozenset({"formatdatetime"})
_TAKE_NOTHING = frozenset({"concat", "coalesce", "equals", "if", "empty", "string"})
_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., _Made]]] = {
    "concat": (1, _MANY, _concat),
    "coalesce": (1, _MANY, _coalesce),
    "toupper": (1, 1, _filtered("upper")),
    "tolower": (1, 1, _filtered("lower")),
    "trim": (1, 1, _filtered("trim")),
    "string": (1, 1, _concat),
    "replace": (3, 3, _replace),
    "empty": (1, 1, _empty),
    "equals": (2, 2, _equals),
    "not": (1, 1, _not),
    "and": (1, _MANY, _logical("and")),
    "or": (1, _MANY, _logical("or")),
    "if": (3, 3, _if),
    "contains": (2, 2, _contains),
    "startswith": (2, 2, _edge("startswith")),
    "endswith": (2, 2, _edge("endswith")),
    "formatdatetime": (2, 2, _format_date_time),
}


# ------------------------------------------------------------------------------------ filters, as SOQL

_FILTER_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')
    |(?P<moment>\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d))?(?![\w:-]))
    |(?P<number>-?\d+(?:\.\d+)?(?![\w-]))
    |(?P<name>[A-Za-z][A-Za-z0-9_]*(?:[/.][A-Za-z][A-Za-z0-9_]*)*)
    |(?P<sign>[(),]))""",
    re.VERBOSE,
)
_COMPARISONS = {"eq": "=", "ne": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_LIKE = {"contains": "%{}%", "startswith": "{}%", "endswith": "%{}"}
_FILTER_BROKEN = "it is no filter that has a translation"


def soql(text: str) -> str:
    """Return an OData filter, as the Salesforce trigger takes it, as the condition of a SOQL query.

    Comparisons, ``and``, ``or``, ``not``, parentheses, ``contains``, ``startswith`` and ``endswith`` are known.

    Raises:
        ExpressionError: Something else stands in it.
    """
    parser = _Filter(text)
    made = parser.either()
    if parser.rest():
        raise ExpressionError(_FILTER_BROKEN)
    return made


class _Filter:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._depth = 0

    def rest(self) -> str:
        return self._text[self._place :].strip()

    def _peek(self) -> re.Match[str] | None:
        return _FILTER_TOKEN.match(self._text, self._place)

    def _take(self) -> re.Match[str]:
        found = self._peek()
        if found is None:
            raise ExpressionError(_FILTER_BROKEN)
        self._place = found.end()
        return found

    def _word(self, word: str) -> bool:
        found = self._peek()
        if found is None or (found["name"] or "").lower() != word:
            return False
        self._place = found.end()
        return True

    def _sign(self, sign: str) -> bool:
        found = self._peek()
        if found is None or found["sign"] != sign:
            return False
        self._place = found.end()
        return True

    def either(self) -> str:
        found = [self._both()]
        while self._word("or"):
            found.append(self._both())
        return found[0] if len(found) == 1 else f"({' OR '.join(found)})"

    def _both(self) -> str:
        found = [self._one()]
        while self._word("and"):
            found.append(self._one())
        return found[0] if len(found) == 1 else f"({' AND '.join(found)})"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ExpressionError(_FILTER_BROKEN)
        try:
            if self._word("not"):
                return f"(NOT {self._one()})"
            if self._sign("("):
                inner = self.either()
                self._need(")")
                return inner
            return self._compared()
        finally:
            self._depth -= 1

    def _need(self, sign: str) -> None:
        if not self._sign(sign):
            raise ExpressionError(_FILTER_BROKEN)

    def _compared(self) -> str:
        name = self._take()["name"]
        if name is None:
            raise ExpressionError(_FILTER_BROKEN)
        if self._sign("("):
            pattern = _LIKE.get(name.lower())
            field = self._take()["name"]
            self._need(",")
            value = self._take()["text"]
            self._need(")")
            if pattern is None or field is None or value is None:
                raise ExpressionError(_FILTER_BROKEN)
            inner = _escaped(value).replace("%", r"\%").replace("_", r"\_")
            return f"{_field(field)} LIKE '{pattern.format(inner)}'"
        word = (self._take()["name"] or "").lower()
        if word not in _COMPARISONS:
            raise ExpressionError(_FILTER_BROKEN)
        return f"{_field(name)} {_COMPARISONS[word]} {self._value()}"

    def _value(self) -> str:
        found = self._take()
        if found["text"] is not None:
            return f"'{_escaped(found['text'])}'"
        if found["name"] is not None and found["name"].lower() in _WORDS:
            return found["name"].lower()
        value = found["moment"] or found["number"]
        if value is None:
            raise ExpressionError(_FILTER_BROKEN)
        return value


def _field(name: str) -> str:
    return name.replace("/", ".")


def _escaped(quoted: str) -> str:
    """Return a text of OData as SOQL has it between its quotes: with backslashes."""
    text = quoted[1:-1].replace("''", "'")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ExpressionError(_FILTER_BROKEN)
    return text.replace("\\", "\\\\").replace("'", "\\'")
