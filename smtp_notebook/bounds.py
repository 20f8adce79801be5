"""How much a template may do for one field of one mail: Jinja2's sandbox, with an end to loops and to text.

Jinja2 says of its sandbox that a template can still use up time and memory, and leaves the bounds to its caller
(https://jinja.palletsprojects.com/en/stable/sandbox/). Here each loop, call, operator and filter says what it is
about to make, before it makes it; what is too much is an error that names the limit. What a function or an object
of the caller does is the caller's own.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from string import Formatter
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from jinja2 import nodes, pass_context
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, generate_lorem_ipsum
from markupsafe import Markup

from smtp_notebook.rows import Rows, as_given

if TYPE_CHECKING:
    from jinja2.runtime import Context

__all__ = [
    "BITS",
    "BUDGET",
    "CHARACTERS",
    "SKELETON",
    "TURNS",
    "BoundError",
    "BoundedEnvironment",
    "Budget",
    "bind",
    "within",
]

#: So many turns all loops of a field may take together. A call takes four; a filter or a comparison that walks
#: through something takes one for each eight items or characters.
TURNS = 1_000_000
#: So many characters a field may make and print, steps on the way included; a mail has at most some 25 million.
CHARACTERS = 50_000_000
#: So many characters the text of a body may have, its values aside: Markdown is read at about a million per second.
SKELETON = 5_000_000
#: So long a whole number may become, in bits: about 30,000 digits, where Python prints 4,300.
BITS = 100_000

#: The name of the `Budget` among a field's names; no template can write it.
BUDGET = "\0sink"
_WORK = "work!"
_TURNS = "turns!"
_MADE = "made!"
_FREE = " free!"
#: What one item of a list counts beside its text.
_ITEM = 8
_WALKED = 3
_CALL_TURNS = 4


class BoundError(ValueError):
    """A template that asks for more than a limit; the text says which one."""


class Budget:
    """What a field may still do."""

    __slots__ = ("characters", "turns")

    def __init__(self) -> None:
        self.refill()

    def refill(self) -> None:
        """Make ready for another field."""
        self.turns = TURNS
        self.characters = CHARACTERS

    def turn(self, count: int = 1) -> None:
        """Take turns of a loop.

        Raises:
            BoundError: There are not so many left.
        """
        self.turns -= count
        if self.turns < 0:
            msg = f"its loops and calls take more than {TURNS:,} turns together"
            raise BoundError(msg)

    def make(self, count: int) -> None:
        """Take characters that are about to be made or printed.

        Raises:
            BoundError: There are not so many left.
        """
        self.characters -= count
        if self.characters < 0:
            msg = f"it makes more than {CHARACTERS:,} characters"
            raise BoundError(msg)

    def walk(self, value: object) -> None:
        """Take what walking through a text or a list once costs."""
        if isinstance(value, _WALKABLE):
            self.turn(len(value) >> _WALKED)


_WALKABLE = (str, bytes, list, tuple, dict, set, frozenset, range)
#: Of these a comparison looks at every item; a range knows its own.
_COMPARED = (str, bytes, list, tuple, dict, set, frozenset)


# ------------------------------------------------------------------------------------------- measures


def extent(value: object, most: int = CHARACTERS) -> int:
    """Return about how many characters a value has when it is printed, what it holds included.

    A list that holds another one twice has it twice. Stops counting behind *most*.
    """
    if isinstance(value, str | bytes):
        return len(value)
    total = 0
    waiting: list[Iterator[object]] = [iter((value,))]
    while waiting and total <= most:
        for item in waiting[-1]:
            total += _ITEM
            if isinstance(item, str | bytes):
                total += len(item)
            elif isinstance(item, list | tuple | set | frozenset):
                waiting.append(iter(item))
                break
            elif isinstance(item, Mapping):
                waiting.append(iter([*item.keys(), *item.values()]))
                break
            elif isinstance(item, Namespace):
                waiting.append(iter(object.__getattribute__(item, "_Namespace__attrs").values()))
                break
            if total > most:
                break
        else:
            waiting.pop()
    return total


def _times(value: object) -> int | None:
    """Return a whole number, numpy's too, or None."""
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what has no index says so
    except TypeError:
        return None


def _add(budget: Budget, left: Any, right: Any) -> Any:
    for side in (left, right):
        if isinstance(side, _WALKABLE):
            budget.make(extent(side, budget.characters))
    return left + right


def _multiply(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > BITS:
            raise BoundError(_LONG_NUMBER)
        return left * right
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | bytes | list | tuple) and (count := _times(times)) is not None:
            budget.make(extent(many) * max(count, 0))
    return left * right


_LONG_NUMBER = f"it makes a number of more than {BITS:,} bits"


def _power(_: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS:
        raise BoundError(_LONG_NUMBER)
    return left**right


def _modulo(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, str | bytes):
        _percent(budget, left, right if isinstance(right, tuple) else (right,))
    return left % right


_OPERATORS: Mapping[str, Callable[[Budget, Any, Any], Any]] = {
    "+": _add,
    "*": _multiply,
    "**": _power,
    "%": _modulo,
}
_PERCENT = re.compile(r"%(?:\([^()]{0,200}\))?[-#0 +]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")
_DIGITS = re.compile(r"[0-9]+")


def _percent(budget: Budget, form: str | bytes, arguments: Sequence[object]) -> None:
    """Take what ``%`` makes: each field could be the longest value, at the longest width."""
    text = form.decode("latin-1") if isinstance(form, bytes) else str(form)
    fields = [width for found in _PERCENT.findall(text) for width in found]
    _fields(budget, text, fields, arguments)


def _braces(budget: Budget, form: str, arguments: Sequence[object]) -> None:
    """Take what ``str.format`` makes."""
    try:
        specs = [spec or "" for _, name, spec, _ in Formatter().parse(str(form)) if name is not None]
    except ValueError:
        return  # it says what is wrong with it itself
    fields = [w for spec in specs for w in ("*" if "{" in spec else "", *_DIGITS.findall(spec))]
    _fields(budget, str(form), fields, arguments)


def _fields(budget: Budget, text: str, widths: Sequence[str], arguments: Sequence[object]) -> None:
    # A star is a width that comes from a value: "%*d", "{:{}}".
    widest = max((int(w[:12]) for w in widths if w.isdecimal()), default=0)
    longest = 0
    for value in arguments:
        longest = max(longest, extent(value, budget.characters))
        if "*" in widths:
            found = value.values() if isinstance(value, Mapping) else (value,)
            widest = max([widest, *(abs(v) for v in found if isinstance(v, int))])
    budget.make(len(text) + longest + len(widths) * (longest + widest))


# Each of these is told a value and the arguments of its filter or method, and takes what that will make.


def _width(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Take what fills a value up to a width: ``center``, ``ljust``, ``zfill``, ``batch``, ``slice``, ``to_bytes``."""
    widths = [w for w in (*args, *options.values()) if isinstance(w, int)]
    budget.make(_ITEM * max([0, *widths]) + (extent(value) if isinstance(value, str) else 0))


def _digits(_: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:  # noqa: ARG001 - told as the others are
    for n in args or options.values():
        if isinstance(n, int) and abs(n) * 4 > BITS:
            raise BoundError(_LONG_NUMBER)


def _lines(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Take what stands at the start of each line, or between pieces of a text: ``indent``, ``wordwrap``."""
    text = str(value)
    given = [*args, *options.values()]
    longest = max([0, *(len(g) for g in given if isinstance(g, str))])
    widest = max([0, *(g for g in given if isinstance(g, int))])
    between = text.count("\n") + text.count("\r") + 1
    if longest:
        between = len(text) + 1  # a line may be one character long
    budget.make(len(text) + between * longest + (text.count("\n") + 1) * min(widest, CHARACTERS))


def _wrap(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    # Its width only says where lines end.
    kept = [a for a in args if not isinstance(a, int)]
    _lines(budget, value, kept, {k: v for k, v in options.items() if not isinstance(v, int)})


def _replace(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    text = value if isinstance(value, bytes) else str(value)
    old = args[0] if args else options.get("old", "")
    new = args[1] if len(args) > 1 else options.get("new", "")
    kind: type = bytes if isinstance(text, bytes) else str
    if isinstance(old, kind) and isinstance(new, kind):
        # Markup escapes what is put into it: six characters at most for one.
        budget.make(len(text) + text.count(old) * len(new) * (6 if isinstance(value, Markup) else 1))  # type: ignore[arg-type]


def _tabs(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    size = max([8, *(n for n in (*args, *options.values()) if isinstance(n, int))])
    budget.make(len(value) + value.count("\t" if isinstance(value, str) else b"\t") * size)


def _translate(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:  # noqa: ARG001 - told as the others are
    table = args[0].values() if args and isinstance(args[0], Mapping) else ()
    longest = max([1, *(len(v) for v in table if isinstance(v, str))])
    budget.make(len(value) * longest)


def _pieces(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:  # noqa: ARG001 - told as the others are
    budget.make((_ITEM // 2) * len(value))


def _formatted(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    _percent(budget, str(value), (*args, *options.values()))


def _braced(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    _braces(budget, value, (*args, *options.values()))


def _printed(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:  # noqa: ARG001 - told as the others are
    budget.make(extent(value, budget.characters))


def _json(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    indent = max([0, *(n for n in (*args, *options.values()) if isinstance(n, int))])
    budget.make(extent(value, budget.characters) * (1 + indent))


def _links(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    text = str(value)
    around = sum(len(g) for g in (*args, *options.values()) if isinstance(g, str))
    budget.make(len(text) + (text.count(".") + text.count(":") + text.count("@")) * (around + 64))
    # Its patterns take quadratic time for a word.
    longest = max(map(len, text.split()), default=0)
    budget.turn(longest * longest >> _WALKED)


def _tags(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:  # noqa: ARG001 - told as the others are
    # It copies the text once for each tag.
    text = str(value)
    budget.make(len(text) + (text.count("<") * len(text) >> 8))


def _sum(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    start = args[1] if len(args) > 1 else options.get("start")
    if isinstance(start, list | tuple) and isinstance(value, list | tuple):
        # Each step copies what came before.
        budget.make(extent(value, budget.characters) * max(1, len(value) // 2))


def _joined(budget: Budget, value: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    between = extent(args[0] if args else options.get("d", ""))
    budget.make(extent(value, budget.characters) + len(value) * between)


_Measure = Callable[[Budget, Any, Sequence[Any], Mapping[str, Any]], None]
_FILTERS: Mapping[str, _Measure] = {
    "batch": _width,
    "center": _width,
    "e": _printed,
    "escape": _printed,
    "forceescape": _printed,
    "format": _formatted,
    "indent": _lines,
    "join": _joined,
    "pprint": _printed,
    "replace": _replace,
    "round": _digits,
    "number": _digits,
    "slice": _width,
    "string": _printed,
    "striptags": _tags,
    "sum": _sum,
    "tojson": _json,
    "urlencode": _printed,
    "urlize": _links,
    "wordwrap": _wrap,
    "xmlattr": _printed,
}
#: Filters that take the next item and no more, or hand their value on.
_CHEAP = frozenset(["attr", "count", "d", "default", "first", "last", "length", "random", "safe"])
_METHODS: Mapping[str, _Measure] = {
    "center": _width,
    "expandtabs": _tabs,
    "format": _braced,
    "format_map": _braced,
    "join": lambda budget, value, args, _: _joined(budget, args[0], (value,), {}),
    "ljust": _width,
    "replace": _replace,
    "rjust": _width,
    "rsplit": _pieces,
    "striptags": _tags,
    "split": _pieces,
    "splitlines": _pieces,
    "to_bytes": _width,
    "translate": _translate,
    "zfill": _width,
}
#: Filters of one text or number that make about as much as they are given.
_LINEAR = frozenset(
    ["capitalize", "d", "date", "default", "filesizeformat", "float", "int", "length", "lower", "money"]
) | {"safe", "title", "trim", "upper"}
_WALKED_TYPES = frozenset([list, tuple, dict, set, frozenset, bytes])
#: A shorter text than this is not worth the counting: what prints it counts it.
_SHORT = 1_000
#: What is walked through before it is joined, so that its size is known.
_AS_LIST = frozenset(["join", "sum"])


def _after(budget: Budget, result: Any) -> None:
    """Take what was made, where that was not known before."""
    if type(result) is float:
        return
    if isinstance(result, str | bytes):
        budget.make(len(result))
    elif isinstance(result, list | tuple | dict | set | frozenset):
        budget.make(_ITEM * len(result))
    elif isinstance(result, int) and result.bit_length() > BITS:
        raise BoundError(_LONG_NUMBER)


# ------------------------------------------------------------------------------------------- loops


def _counted(budget: Budget, items: Iterable[Any], weight: int) -> Iterator[Any]:
    for item in items:
        budget.turn()
        budget.make(weight)
        yield item


_SIZED = frozenset([list, tuple, dict, set, frozenset, range, str, type({}.keys()), type({}.values()), type({}.items())])  # fmt: skip


@pass_context
def _turns(context: Context, items: Any, weight: int = 0) -> Any:
    """Stand around what a loop walks through; *weight* is how much text each turn prints by itself."""
    budget: Budget = context.parent[BUDGET]
    if type(items) in _SIZED:
        count = len(items)
        budget.turn(count)
        budget.make(count * weight)
        return items
    return _Countable(budget, items, weight)


class _Countable:
    """Something to loop over that may have a length; each walk through it is counted."""

    __slots__ = ("_budget", "_items", "_weight")

    def __init__(self, budget: Budget, items: Any, weight: int) -> None:
        self._budget = budget
        self._items = items
        self._weight = weight

    def __iter__(self) -> Iterator[Any]:
        return _counted(self._budget, self._items, self._weight)

    def __len__(self) -> int:
        return len(self._items)


@pass_context
def _work(context: Context, value: Any) -> Any:
    """Stand around one side of a comparison."""
    if isinstance(value, _COMPARED):
        context.parent[BUDGET].walk(value)
    return value


@pass_context
def _made(context: Context, value: Any) -> Any:
    """Stand around a list that a template writes: it may hold another one many times."""
    budget: Budget = context.parent[BUDGET]
    size = extent(value, budget.characters)
    if size > budget.characters:
        budget.make(size)
    budget.turn(size >> _WALKED)
    return value


def within(context: Context, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take what joining *parts* by ``~`` makes, and return them."""
    budget: Budget = context.parent[BUDGET]
    for part in parts:
        if type(part) is str:
            budget.make(len(part))
        else:
            budget.make(extent(part, budget.characters))
    return parts


def bind(tree: nodes.Template) -> None:
    """Put what counts around the loops, comparisons and lists of a template."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _around(loop.iter, _TURNS, [nodes.Const(sum(map(_weight, loop.body)))])
    for operand in tree.find_all(nodes.Operand):
        if not _constant(operand.expr):
            operand.expr = _around(operand.expr, _WORK)
    _bind_literals(tree)
    if tree.find(_REPEATING) is None:
        # What runs once makes no more than its source and the row hold, so nothing has to be counted.
        for found in tree.find_all(nodes.Filter):
            if found.name in _LINEAR and not found.kwargs and all(map(_constant, found.args)):
                found.name += _FREE


_REPEATING: Any = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


def _around(node: Any, name: str, arguments: Sequence[nodes.Expr] = ()) -> nodes.Expr:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _bind_literals(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_bound_literal(v) for v in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _bound_literal(value))


def _bound_literal(node: Any) -> Any:
    if not isinstance(node, nodes.Node):
        return node
    _bind_literals(node)
    match node:
        case nodes.Tuple(ctx="store"):
            return node
        case nodes.List() | nodes.Tuple() | nodes.Dict() if not _constant(node):
            return _around(node, _MADE)
    return node


def _constant(node: nodes.Node) -> bool:
    """Tell whether an expression is written out: what it holds is as long as its source."""
    match node:
        case nodes.Const():
            return True
        case nodes.List(items=items) | nodes.Tuple(items=items):
            return all(map(_constant, items))
        case nodes.Dict(items=items):
            return all(_constant(item.key) and _constant(item.value) for item in items)
    return False


def _weight(node: nodes.Node) -> int:
    """Return how much text of its own a turn prints at most; loops inside it count theirs."""
    match node:
        case nodes.TemplateData(data=data):
            return len(data)
        case nodes.For():
            return 0
        case nodes.If(body=body, elif_=others, else_=last):
            ways: list[list[Any]] = [body, last, *([w] for w in others)]
            return max(sum(map(_weight, way)) for way in ways)
    return sum(map(_weight, node.iter_child_nodes()))


# ------------------------------------------------------------------------------------- the environment


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox, in which a field's `Budget` is asked before anything grows."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {_TURNS: _turns, _WORK: _work, _MADE: _made}

    def bound_filters(self) -> None:
        """Put every filter that there is by now under the budget."""
        free: dict[str, Any] = {}
        for name, function in list(self.filters.items()):
            if not name.endswith("!"):
                self.filters[name] = _bounded(name, function)
            if name in _LINEAR:
                free[name + _FREE] = function
        self.filters |= free

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator that may make something large."""
        if type(left) is float or (type(left) is int and type(right) is float):
            return self.binop_table[operator](left, right)
        return _OPERATORS[operator](context.parent[BUDGET], left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063 - Jinja2's names, which no keyword of a call meets
        """Call something; a method of a text or number says before what it will make."""
        budget: Budget = __context.parent[BUDGET]
        budget.turn(_CALL_TURNS)
        if isinstance(__obj, LoopContext) and args:
            args = (_turns(__context, args[0]), *args[1:])
        elif __obj is generate_lorem_ipsum:
            budget.make(_lorem(*args, **_given(kwargs)))
        elif type(__obj) in _BOUND:
            args = _listed(budget, __obj, args)
            _before_method(budget, __obj, args, kwargs)
        if any(type(a) is Rows for a in (*args, *kwargs.values())) and __self._is_a_persons(__obj):
            args = tuple(map(as_given, args))
            kwargs = {k: as_given(v) for k, v in kwargs.items()}
        result = super().call(__context, __obj, *args, **kwargs)
        _after(budget, result)
        return result

    def _is_a_persons(self, function: Any) -> bool:
        """Tell whether a function is one of the caller's own, and no macro and none of Jinja2's."""
        return not isinstance(function, Macro | LoopContext) and all(
            function is not each for each in self.globals.values()
        )


def _lorem(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> int:  # noqa: A002, ARG001, FBT001, FBT002 - its parameters
    """Return how much text ``lipsum`` makes; a word has some eight characters."""
    return 8 * n * max


_BOUND = frozenset([BuiltinFunctionType, FunctionType, MethodType])


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the template gives; Jinja2 adds two."""
    return {k: v for k, v in options.items() if k not in {"_loop_vars", "_block_vars"}}


def _listed(budget: Budget, function: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a text's join() with its items counted: a column, a view, what a filter gives."""
    method = getattr(function, "__wrapped__", function)
    joins = getattr(method, "__name__", "") == "join" and isinstance(
        getattr(method, "__self__", None), str | bytes
    )
    if not joins or len(args) != 1 or isinstance(args[0], _WALKABLE) or not hasattr(args[0], "__iter__"):
        return args
    return (list(_counted(budget, args[0], _ITEM)),)


def _before_method(budget: Budget, function: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    # What Jinja2 puts in place of str.format knows what it stands for.
    method = getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    if isinstance(owner, str | bytes | int | list | tuple | dict):
        budget.walk(owner)
        for argument in args:
            budget.walk(argument)
        measure = _METHODS.get(method.__name__)
        if measure is not None:
            if method.__name__ == "join" and args and not isinstance(args[0], _WALKABLE):
                msg = "join() takes a list; write | list before it"
                raise BoundError(msg)
            measure(budget, owner, args, _given(options))


def _bounded(name: str, function: Any) -> Any:
    """Return a filter that asks the budget first, and tells it what it made."""
    kind = getattr(getattr(function, "jinja_pass_arg", None), "name", "")
    measure, walks, listed = _FILTERS.get(name), name not in _CHEAP, name in _AS_LIST

    def bounded(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        budget: Budget = context.parent[BUDGET]
        if listed and not isinstance(value, _WALKABLE) and hasattr(value, "__iter__"):
            value = list(_counted(budget, value, _ITEM))
        if walks and isinstance(value, _WALKABLE):
            budget.turn(len(value) >> _WALKED)
        if measure is not None and (not listed or isinstance(value, _WALKABLE)):
            measure(budget, value, args, options)
        if not kind:
            result = function(value, *args, **options)
        else:
            first = {"context": context, "eval_context": context.eval_ctx}.get(kind, context.environment)
            result = function(first, value, *args, **options)
        _after(budget, result)
        return result

    def quick(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        # Most filters by far: a short text or a number in, a short text out.
        result = function(value, *args, **options)
        if type(result) is not str or type(value) in _WALKED_TYPES:
            budget: Budget = context.parent[BUDGET]
            budget.walk(value)
            _after(budget, result)
        elif len(result) > _SHORT:
            context.parent[BUDGET].make(len(result))
        return result

    # Only a filter that is asked for its context is told where the budget is; that also keeps Jinja2 from
    # working it out while the template is compiled.
    chosen = quick if measure is None and not kind and name in _LINEAR else bounded
    return pass_context(functools.wraps(function)(chosen) if hasattr(function, "__name__") else chosen)
