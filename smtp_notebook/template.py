"""The shared builder: a head and a body with Jinja2 in them, and values, make a Message.

Order is what makes this safe. The head is split into fields, and an address field into its addresses,
before a value is seen. Jinja prints a token for each value; Markdown, CSS inlining and the text twin
run on that skeleton, once for each distinct one; the values enter last, escaped for their place.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import functools
import hashlib
import inspect
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Macro
from jinja2.utils import Namespace
from markupsafe import Markup

from smtp_notebook import bounds, filters
from smtp_notebook.addresses import Address, make_address, split_addresses, split_mailbox
from smtp_notebook.bodies import FORMATS, html_to_text, looks_like_html
from smtp_notebook.bounds import BoundedEnvironment, BoundError, Budget
from smtp_notebook.event import checked_event
from smtp_notebook.fields import FIELDS, check_field_names, truth
from smtp_notebook.letters import LETTER, Theme, first_uri, letter_html, letter_text, theme_of
from smtp_notebook.message import Attachment, Event, Message
from smtp_notebook.outcome import MailError, MessageError, OptionError, TemplateError
from smtp_notebook.render import Fragment, is_plain, merged_images, render
from smtp_notebook.rows import Differing, DiffersError, as_given
from smtp_notebook.slots import (
    READY,
    Marker,
    Pieces,
    Place,
    SlotError,
    Spot,
    escape,
    html_pieces,
    plain_pieces,
)
from smtp_notebook.variants import Variants

if TYPE_CHECKING:
    from jinja2.runtime import Context

__all__ = [
    "Field",
    "Filled",
    "Later",
    "Parts",
    "Row",
    "Runner",
    "Slot",
    "Template",
    "addresses_of",
    "broken_lines",
    "given_cells",
    "is_missing",
    "lints",
    "named_cells",
    "refuse_unprintable",
]

SUFFIXES: Mapping[str, str] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".txt": "text",
    ".text": "text",
}
#: What may be another text for some rows.
VARIED = ("subject", "preheader", "body")
ADDRESS_FIELDS = ("to", "cc", "bcc", "reply_to", "from_")
_FILES = ("attach", "inline")
_REPEATED = frozenset({"to", "cc", "bcc", "reply_to", "attach", "inline", "unsubscribe"})
_HEAD_LINE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)\s*:(.*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SINK = bounds.BUDGET
#: Stands between the body and what the letter shows around it.
_BESIDE = "\x1e"
_SLOT = "slot!"
_CALL = "call!"
_CACHED_SKELETONS = 64


# ------------------------------------------------------------------------------------ missing values


def is_missing(value: object) -> bool:
    """Tell whether a cell is empty: None, NaN, NaT or pd.NA."""
    if value is None:
        return True
    if isinstance(value, float):
        return value != value  # noqa: PLR0124 - NaN is the one float that differs from itself
    if isinstance(value, str | int | list | dict):
        return False
    if isinstance(value, Decimal):
        return value.is_nan()
    kind = type(value)
    if kind.__name__ in {"NAType", "NaTType"}:
        return True
    return kind.__module__ == "numpy" and kind.__name__.startswith("float") and bool(value != value)  # noqa: PLR0124


class _EmptyCellError(UndefinedError):
    """A missing cell was printed; the message is the column."""


class _UnknownNameError(UndefinedError):
    """A name that the row does not have was used."""


class _MissingCell(Undefined):
    """A missing cell: false, takes ``default()``, and cannot be printed."""

    __slots__ = ()

    def __init__(self, column: str) -> None:
        super().__init__(hint=column, name=column, exc=_EmptyCellError)

    def _refuse(self, *_: object) -> Any:
        return self._fail_with_undefined_error()

    __str__ = __iter__ = __len__ = __html__ = __format__ = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _MissingCell)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, _MissingCell)

    __hash__ = Undefined.__hash__


class _Unknown(StrictUndefined):
    """An unknown name, as an error of our own."""

    __slots__ = ()

    def __init__(
        self, hint: str | None = None, obj: Any = None, name: str | None = None, exc: Any = None
    ) -> None:
        super().__init__(hint, obj, name, exc or _UnknownNameError)


# ------------------------------------------------------------------------------------------- fields


class Slot(NamedTuple):
    """A value that a template printed.

    Attributes:
        value: The value, filters applied.
        label: What the template calls it, such as ``FirstName``.
        line: The template's line, counted from 1.
    """

    value: Any
    label: str
    line: int

    @property
    def where(self) -> str:
        """What the template calls it, and where."""
        return f"{self.label!r} (line {self.line})" if self.line else repr(self.label)


class Filled(NamedTuple):
    """A field after Jinja: its skeleton, and the values that belong into it."""

    skeleton: str
    slots: tuple[Slot, ...]


class Field:
    """One field of a template, compiled.

    Args:
        beside: Texts that stand behind *source*, each by itself: nothing in one of them reaches another.

    Attributes:
        static: Whether it is the same in every row.
        names: The names that it uses.
        columns: What it uses of ``row``, or None when only running it can tell.
        assigns: Whether it sets names of its own, which must not reach other fields.
        calls: Whether it calls anything, or asks an object for an attribute, which may be computed: either may
            change what it prints next.
        prints: All that it does, when it only prints cells between literal texts; else None.
    """

    def __init__(
        self, name: str, source: str, line: int, marker: Marker, beside: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.source = _BESIDE.join((source, *beside))
        self.line = line
        self.marker = marker
        self.static = "{" not in self.source
        self.names: frozenset[str] = frozenset()
        self.columns: frozenset[str] | None = frozenset()
        self.assigns = False
        self.calls = False
        self.prints: _Prints | None = None
        self._jinja = None if self.static else _compile((source, *beside), self)

    def fill(self, names: Mapping[str, Any]) -> Filled:
        """Return the field as one row makes it; an error says what to do."""
        if self._jinja is None:
            return Filled(self.source, ())
        sink = Sink(self.marker)
        sink.begin(self)
        try:
            return Filled(self._jinja.render({**names, _SINK: sink}), tuple(sink.slots))
        except DiffersError as error:
            raise self._explain(error, names) from error
        except MailError:
            raise
        except Exception as error:
            raise self._explain(error, names) from error

    def paths(self) -> Iterator[tuple[str, ...]]:
        """Yield the names that it uses of a row, each with the attributes that it asks for."""
        if not self.static:
            for tree in map(_environment().parse, self.source.split(_BESIDE)):
                yield from _paths(tree, self.names)

    def pieces(self, context: Context) -> Iterator[str]:
        """Yield the field's skeleton; its values are in the context's sink then. Errors come as they are."""
        return self._jinja.root_render_func(context)  # type: ignore[no-any-return, union-attr] # Jinja's code is untyped; static fields are not run

    def plain(self, row: Row) -> str:
        """Return the field as one line of text, its values checked for control characters."""
        filled = row.filled(self)
        return "".join(_header_piece(p, filled, self) for p in self.split(filled.skeleton))

    def split(self, text: str) -> list[str | int]:
        """Return a piece of the skeleton as literal text and value numbers."""
        try:
            return self.marker.split(text)
        except SlotError as error:
            raise self.error(str(error)) from None

    def error(
        self, cause: str, fix: str = "", line: int | None = None, column: str | None = None
    ) -> TemplateError:
        """Return an error that names this field and its line."""
        line = line or self.line or None
        where = f"{self.name}, line {line}" if line else self.name
        return TemplateError(f"{where}: {cause}", fix, line=line, column=column)

    def failed(self, slot: Slot, error: Exception) -> MailError:
        """Return what to say of a printed value that could not be made."""
        if isinstance(error, MailError) and not isinstance(error, DiffersError):
            return error
        return self._explain(error, {}, slot.line)

    def _explain(self, error: Exception, names: Mapping[str, Any], line: int | None = None) -> TemplateError:
        found = _template_line(error)
        line = line or (found + self.line - 1 if found and self.line else None)
        if isinstance(error, _EmptyCellError):
            column = str(error)
            return self.error(
                f"the cell of column {column!r} is empty.",
                f"Write {{{{ {_expression(column)} | default('…') }}}}, wrap it in {{% if %}}, or leave that row out.",
                line,
                column,
            )
        if isinstance(error, DiffersError):
            return self.error(error.cause, error.fix, line, error.column)
        if isinstance(error, _UnknownNameError):
            return self.error(*_unknown(str(error), names), line)
        if isinstance(error, SlotError):
            return self.error(str(error), "", line)
        if isinstance(error, BoundError):
            return self.error(f"{error}.", "Do the work in the notebook and print what came of it.", line)
        if isinstance(error, SecurityError):
            return self.error(
                f"not allowed in a template: {_one_line(error)}.", "Templates only print values.", line
            )
        return self.error(
            f"{type(error).__name__}: {_one_line(error)}.", "Check the expression on this line.", line
        )


class Later(NamedTuple):
    """A printed value that an executor is making."""

    future: Future[Any]


#: Has an executor call a function with its arguments; None where it is to be called here and now.
Submit = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Later | None]


class Sink(Budget):
    """Collects the values that the rendering of a field prints, and holds what it may still do."""

    __slots__ = ("marker", "offset", "slots", "submit")

    def __init__(self, marker: Marker) -> None:
        super().__init__()
        self.marker = marker
        self.slots: list[Slot] = []
        self.offset = 0
        self.submit: Submit | None = None

    def begin(self, field: Field) -> None:
        """Make ready for another field."""
        self.refill()
        self.slots = []
        self.offset = field.line - 1 if field.line else 0


@pass_context
def _slot(context: Context, value: Any, label: str, line: int) -> Any:
    """Stand in for every printed value: keep it, print its token."""
    # Every value of every row comes through here. The sink is where Field.fill put it.
    sink: Sink = context.parent[_SINK]
    if type(value) is str:
        sink.make(_TOKEN + len(value))
    else:
        refuse_unprintable(value, label)
        sink.make(_TOKEN + (bounds.extent(value) if isinstance(value, _HOLDING) else 0))
    marker = sink.marker
    if isinstance(value, str) and marker.hint in value and marker.touches(value):
        marker.split(value)  # raises when a filter changed it
        if not isinstance(value, _Text):
            raise SlotError(_JOINED)
        return value
    slots = sink.slots
    index = len(slots)
    slots.append(_new_slot(Slot, (value, label, line + sink.offset)))
    return marker.ready[index] if index < READY else marker.markup(index)


#: So many characters stand in a skeleton for a value.
_TOKEN = 20
#: What prints more than one value.
_HOLDING = (str, bytes, list, tuple, dict, set, frozenset, Namespace)


@pass_context
def _deferred(context: Context, function: Any, *args: Any, **options: Any) -> Any:
    """Stand in for the call of a function whose value is printed as it is: nothing else waits for it."""
    submit = context.parent[_SINK].submit
    later = None
    if submit is not None:
        later = submit(function, tuple(map(as_given, args)), {k: as_given(v) for k, v in options.items()})
    if later is not None:
        return later
    return _environment().call(context, function, *args, **options)


class _Text(Markup):
    """Template text whose values are tokens already: what a ``{% set %}`` block, a macro or a caller printed.

    What comes of joining it with something else is not, for a value could be in there that no token stands for.
    """

    __slots__ = ()


def _joining(name: str) -> Any:
    def join(self: _Text, *args: Any, **options: Any) -> Any:
        return getattr(Markup(self), name)(*args, **options)  # noqa: S704 - it is Markup

    return join


for _name in [
    "__add__",
    "__radd__",
    "__mod__",
    "__mul__",
    "__rmul__",
    "center",
    "expandtabs",
    "format",
    "format_map",
    "join",
    "ljust",
    "replace",
    "rjust",
    "translate",
]:
    setattr(_Text, _name, _joining(_name))

_JOINED = (
    "A value was joined to text that values had already been printed into. "
    "Print one after the other instead: {{ greeting }}{{ name }}."
)
_IN_A_LIST = "Print its items one by one: {% for item in items %}{{ item }}{% endfor %}."


class _Macro(Macro):
    """A macro whose text is known as such."""

    def _invoke(self, arguments: list[Any], autoescape: bool) -> str:  # noqa: FBT001 - Jinja's signature
        made: str = self._func(*arguments)
        return _Text(made) if autoescape else made


def _safe(value: Any) -> Any:
    """Mark a value as HTML, as Jinja2's filter does."""
    return value if isinstance(value, _Text) else Markup(value)  # noqa: S704 - the author says so


#: As `Slot` itself makes one, at half the cost.
_new_slot: Any = tuple.__new__
_NEVER_MISSING = frozenset({str, int, bool, dt.date, dt.datetime, dt.time})


def named_cells(cells: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row as a template takes it: a missing cell is false, takes ``default()``, and cannot be printed."""
    return {str(k): _MissingCell(str(k)) if is_missing(v) else v for k, v in cells.items()}


def given_cells(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as a person's own function is given it: None where a cell is missing, a group's rows as a frame."""
    return {
        k: None if isinstance(v, _MissingCell) or is_missing(v) else as_given(v) for k, v in cells.items()
    }


def refuse_unprintable(value: object, label: str) -> None:
    """Refuse to print what is missing, unknown, differs within a group, or a function that nobody called."""
    if type(value) is Differing:
        value.refuse()
    if isinstance(value, Undefined):
        str(value)  # raises: an unknown name, or a missing cell
    if is_missing(value):
        raise _EmptyCellError(label)
    if inspect.isroutine(value) or inspect.isclass(value):
        msg = f"{label} is a function; call it: {{{{ {label}(…) }}}}"
        raise SlotError(msg)


def _header_piece(piece: str | int, filled: Filled, field: Field) -> str:
    if isinstance(piece, str):
        return piece
    slot = filled.slots[piece]
    if not is_plain(slot.value):
        raise field.error(
            f"the value of {slot.where} is a {type(slot.value).__name__}, which cannot stand in a header.",
            "Put it into the body or attach it.",
            slot.line,
            slot.label,
        )
    text = _as_text(slot, field)
    if found := _CONTROL.search(text):
        raise field.error(
            f"the value of {slot.label!r} has a {_control_name(found[0])} in it ({text[:40]!r}); headers are one line.",
            "Clean that cell: a line break there could add recipients.",
            slot.line,
            slot.label,
        )
    return text


def _as_text(slot: Slot, field: Field) -> str:
    try:
        return str(slot.value)
    except Exception as error:
        # A number of too many digits, or an object whose own __str__ fails.
        raise field.failed(slot, error) from error


def _control_name(character: str) -> str:
    names = {"\n": "line break", "\r": "line break", "\t": "tab", "\0": "NUL character"}
    return names.get(character, f"control character U+{ord(character):04X}")


# -------------------------------------------------------------------------------------------- Jinja


class _Code(CodeGenerator):
    """Prints what `_slot` returns as it is: it is Markup, and `escape` would copy it."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:  # noqa: ARG002 - Jinja's signature
        self.write("(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:  # noqa: ARG002 - the same
        self.write(")")

    def visit_CallBlock(self, node: nodes.CallBlock, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write as Jinja2 does, which prints what it calls as it is; so that is looked at first."""
        call_frame, macro = self.macro_body(node, frame)
        self.writeline("caller = ")
        self.macro_def(macro, call_frame)
        self.start_write(frame, node)
        self.write("called(")
        self.visit_Call(node.call, frame, forward_caller=True)
        self.write(")")
        self.end_write(frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write as Jinja2 does, but for what says how much is about to be joined."""
        volatile = "(markup_join if context.eval_ctx.volatile else str_join)"
        plain = "markup_join" if frame.eval_ctx.autoescape else "str_join"
        self.write(f"{volatile if frame.eval_ctx.volatile else plain}(within(context, (")
        for piece in node.nodes:
            self.visit(piece, frame)
            self.write(", ")
        self.write(")))")


def _called(value: Any) -> Any:
    """Return what a ``{% call %}`` prints: a macro's text, never what a function made of a row."""
    if isinstance(value, _Text):
        return value
    msg = "{% call %} works with macros alone; print what a function returns with {{ }}."
    raise SlotError(msg)


@functools.cache
def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        undefined=_Unknown, autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.code_generator_class = _Code
    environment.filters |= {
        _SLOT: _slot,
        _CALL: _deferred,
        "addresses": filters.addresses,
        "date": filters.date,
        "number": filters.number,
        "money": filters.money,
        "table": filters.table,
        "safe": _safe,
    }
    environment.bound_filters()
    return environment


_FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


def _compile(sources: Sequence[str], field: Field) -> Any:
    environment = _environment()
    try:
        tree = _beside(list(map(environment.parse, sources)))
        _refuse_statements(tree, field)
        field.names = frozenset(meta.find_undeclared_variables(tree))
        field.columns = _columns(tree)
        field.assigns = tree.find(_ASSIGNING) is not None
        field.calls = tree.find(_CALLING) is not None or any(map(_asks, tree.find_all(_ASKING)))
        field.prints = _prints(tree, field)
        for output in tree.find_all(nodes.Output):
            output.nodes = [n if isinstance(n, nodes.TemplateData) else _wrapped(n) for n in output.nodes]
        bounds.bind(tree)
        tree.set_environment(environment)
        code = environment.compile(tree, name=field.name, filename=_FILENAME)
    except TemplateSyntaxError as error:
        line = error.lineno + field.line - 1 if field.line else error.lineno
        cause = f"template syntax: {(error.message or 'error').rstrip('.')}."
        raise field.error(cause, "Check the {{ }} and {% %} there.", line) from None
    except MailError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a stranger's text does to a compiler
        # What Jinja2 lets through: too deep, a number too long, Python's own limits for nested blocks.
        cause = f"it cannot be compiled: {type(error).__name__}: {_one_line(error)}."
        raise field.error(cause, "Write it more simply: fewer things inside one another.") from None
    made = environment.template_class.from_code(environment, code, environment.make_globals(None))
    # What its blocks print is known by its type.
    made.root_render_func.__globals__.update(Markup=_Text, Macro=_Macro, called=_called, within=bounds.within)
    return made


def _beside(trees: Sequence[nodes.Template]) -> nodes.Template:
    """Return texts as one. They were parsed apart, so that no comment, ``-%}`` or name of one reaches the next."""
    if len(trees) == 1:
        return trees[0]
    body: list[nodes.Node] = []
    for number, tree in enumerate(trees):
        body += [nodes.Output([nodes.TemplateData(_BESIDE)], lineno=1)] if number else []
        body += [nodes.Scope(tree.body, lineno=1)] if tree.find(_ASSIGNING) else tree.body
    made = nodes.Template(body, lineno=1)
    made.set_environment(_environment())
    return made


def _refuse_statements(tree: nodes.Template, field: Field) -> None:
    for found in tree.find_all(_FORBIDDEN):
        raise field.error(
            "a template cannot include or import another file.", "Paste its text here.", found.lineno
        )
    blocks: Any = (nodes.FilterBlock, nodes.AssignBlock)
    for block in tree.find_all(blocks):
        if block.filter is not None and block.filter.find(nodes.Name):
            # It would enter the text as if the template's author had written it.
            cause = "a filter around a block of text is given a value."
            raise field.error(cause, "Print the value inside of the block, with {{ }}.", block.lineno)


class _Cell(NamedTuple):
    """A cell that a field prints as it is, and what a `Slot` tells of it."""

    name: str
    shared: bool
    """Whether a name that every row shares stands in for one that the row lacks."""
    label: str
    line: int


class _Prints(NamedTuple):
    """All that a field does which only prints cells."""

    skeleton: str
    cells: tuple[_Cell, ...]


def _prints(tree: nodes.Template, field: Field) -> _Prints | None:
    """Return what a field prints when every row prints the same cells, as they are; else None."""
    skeleton = ""
    found: list[_Cell] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                skeleton += node.data
                continue
            # Of these two names Jinja has a meaning of its own for one; the other is all cells together.
            shared = isinstance(node, nodes.Name) and node.name not in {"self", "row"}
            name = _label(node) if shared else _column(node)
            if name is None:
                return None
            skeleton += field.marker.token(len(found))
            line = node.lineno + (field.line - 1 if field.line else 0)
            found.append(_Cell(name, shared, _label(node), line))
    return _Prints(skeleton, tuple(found))


_FILENAME = "<template>"
_CALLING: Any = (nodes.Call, nodes.CallBlock)
_ASSIGNING: Any = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.Block, nodes.Scope)


_ASKING: Any = (nodes.Getattr, nodes.Getitem, nodes.Filter)
_ASKING_FILTERS = frozenset(
    ["attr", "groupby", "map", "max", "min", "rejectattr", "selectattr", "sort", "sum", "unique"]
)


def _asks(node: nodes.Node) -> bool:
    """Tell whether an expression asks an object, other than the row and a loop, for an attribute."""
    match node:
        case nodes.Filter(name=name):
            return name in _ASKING_FILTERS
        case nodes.Getattr(node=nodes.Name(name="row" | "loop")) | nodes.Getitem(node=nodes.Name(name="row")):
            return False
    return True


def _columns(tree: nodes.Template) -> frozenset[str] | None:
    """Return the columns that stand as ``row["…"]`` or ``row.…``; None when ``row`` is used otherwise."""
    uses = sum(node.name == "row" for node in tree.find_all(nodes.Name))
    nodes_of_row = map(_column, tree.find_all((nodes.Getattr, nodes.Getitem)))
    found = [name for name in nodes_of_row if name is not None]
    return frozenset(found) if len(found) == uses else None


def _paths(node: nodes.Node, names: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Yield each of the names below a node with the attributes that are asked of it; what is called is none of them."""
    path = _path(node.node if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) else node)
    if path is None:
        for child in node.iter_child_nodes():
            yield from _paths(child, names)
        return
    if isinstance(node, nodes.Call):
        path = path[:-1]
        for child in (*node.args, *node.kwargs):
            yield from _paths(child, names)
    if path[0] not in names:
        return
    if path[0] == "row":
        # A column may have a path for its name.
        path = tuple(path[1].split(".")) + path[2:] if len(path) > 1 else ()
    if path:
        yield path


def _path(node: nodes.Node) -> tuple[str, ...] | None:
    """Return the path that an expression is, such as ``Owner.Name``; else None."""
    match node:
        case nodes.Name(name=name):
            return (name,)
        case (
            nodes.Getattr(node=inner, attr=name) | nodes.Getitem(node=inner, arg=nodes.Const(value=str(name)))
        ):
            path = _path(inner)
            return None if path is None else (*path, name)
    return None


def _column(node: nodes.Node) -> str | None:
    """Return the column that an expression is, written as ``row["…"]`` or ``row.…``; else None."""
    match node:
        case nodes.Getattr(node=nodes.Name(name="row"), attr=name) if not hasattr(dict, name):
            return str(name)
        case nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str(name))) if not hasattr(
            dict, name
        ):
            return name
    return None


#: Names whose call means something of its own to Jinja's compiler.
_JINJAS_OWN = frozenset({"caller", "super", "self", "loop"})


def _wrapped(node: nodes.Expr) -> nodes.Expr:
    """Return the expression with our filter around it; that is how a printed value is known by name."""
    arguments: list[nodes.Expr] = [nodes.Const(_label(node)), nodes.Const(node.lineno)]
    match node:
        case nodes.Call(node=nodes.Name(name=name), dyn_args=None, dyn_kwargs=None) if (
            name not in _JINJAS_OWN
        ):
            node = nodes.Filter(node.node, _CALL, node.args, node.kwargs, None, None, lineno=node.lineno)
    return nodes.Filter(node, _SLOT, arguments, [], None, None, lineno=node.lineno)


def _label(node: nodes.Node | None) -> str:
    match node:
        case nodes.Name(name=name):
            return str(name)
        case nodes.Getattr(node=inner, attr=name):
            return str(name) if _label(inner) == "row" else f"{_label(inner)}.{name}"
        case nodes.Getitem(node=inner, arg=nodes.Const(value=name)):
            return str(name) if _label(inner) == "row" else f"{_label(inner)}[{name!r}]"
        case nodes.Filter(node=inner) if inner is not None:
            return _label(inner)
        case nodes.Call(node=inner):
            return f"{_label(inner)}()"
        case nodes.Or(left=left):
            return _label(left)
    return "expression"


def _template_line(error: Exception) -> int | None:
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILENAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _unknown(message: str, names: Mapping[str, Any]) -> tuple[str, str]:
    row = names.get("row")
    known = [*(str(k) for k in names if k != _SINK), *(map(str, row) if isinstance(row, Mapping) else ())]
    if found := re.search(r"^'(.+?)' is undefined|has no (?:attribute|element) '?(.+?)'?$", message):
        wanted = found[1] or found[2]
        near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = (
            f"Did you mean {near[0]!r}?"
            if near
            else f"There are: {', '.join(sorted(set(known))[:12]) or 'no names'}."
        )
        return f"there is no {wanted!r} here.", hint
    return f"{message}.", "Check the name."


def _expression(column: str) -> str:
    return column if column.isidentifier() else f'row["{column}"]'


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


# ----------------------------------------------------------------------------------------- Template


#: The name of a body that is no text; no frame has a column of this name.
_BODY = "__body__"


class Template:
    """A Message with Jinja2 in every field; a row, or the notebook's variables, fill it.

    Args:
        source: The head between ``---`` lines, then the body; or the body alone. A Path, or a single
            line that ends in .md, .html or .txt, names a template file (UTF-8).
        name: What errors call it; a file's name by default.
        attach_root: The folder that attachment paths must stay in; the file's own folder by default,
            else the working one.
        values: More names for every row, functions too.
        **fields: Fields that win over the head's. In strings Jinja2 works as in the head. ``event`` is an
            `Event`, in which no Jinja2 works, or a function of a row; see `mail_merge`.

    Raises:
        TemplateError: A syntax error, with its line.
        OptionError: A field that does not exist, with the nearest one that does.

    A Template is compiled once and may be filled from several threads.

    Attributes:
        choice: The `Variants` of its fields, which agree in names and shares; None where there are none.
    """

    def __init__(
        self,
        source: str | Path | Template | _Source = "",
        /,
        *,
        name: str = "",
        attach_root: str | Path | None = None,
        values: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        parsed = _Source.of(source)
        check_field_names(fields)
        self.name = name or parsed.name
        self.source = parsed.text
        self.attach_root = Path(attach_root or parsed.root or ".").absolute()
        self._given = dict(parsed.given) | {k: v for k, v in fields.items() if v is not None}
        self.parsed = dataclasses.replace(parsed, given=self._given)
        self._values = dict(values or {})
        self._marker = Marker()
        self._lock = threading.Lock()
        self._letters: OrderedDict[str, Letter] = OrderedDict()
        self.choice = _one_choice(self._given)
        try:
            self._compile(parsed)
        except TemplateError as error:
            raise _located(error, self.name) from None
        self._variants: Mapping[str, Template] = {}
        if self.choice is not None:
            # Made now, so that an error in any of the texts is known at once.
            varied = {k: v for k, v in self._given.items() if isinstance(v, Variants)}
            self._variants = {
                name: self.with_(**{k: v[name] for k, v in varied.items()}) for name in self.choice
            }

    def _compile(self, parsed: _Source) -> None:
        # Of variants the first texts; the others are Templates of their own.
        given = {k: _first(v) for k, v in self._given.items()}
        body = given.pop("body", parsed.body)
        suffix_format = parsed.format
        stated = given.pop("format", parsed.head.get("format", (None, 0))[0]) or suffix_format
        self._event = _checked_maker(given.pop("event", None))
        lines = {k: line for k, (_, line) in parsed.head.items()}
        merged = {k: v for k, (v, _) in parsed.head.items() if k != "format"} | given
        self._theme = theme_of(merged.pop("theme", None), self.attach_root)
        self._inline_css = truth("inline_css", merged.pop("inline_css", True))
        self._headers = {
            str(k): self._field(str(k), v) for k, v in dict(merged.pop("headers", None) or {}).items()
        }
        for key in [k for k in merged if k.lower().startswith("x-")]:
            self._headers[key] = self._field(key, merged.pop(key), lines.get(key, 0))
        self._fields: dict[str, Any] = {}
        for key, value in merged.items():
            items = value if isinstance(value, list | tuple) else [value]
            compiled = [self._field(key, v, lines.get(key, 0)) if isinstance(v, str) else v for v in items]
            self._fields[key] = compiled
        if not isinstance(body, str):
            self._values[_BODY], body = body, f"{{{{ {_BODY} }}}}"
        self.format = self._checked_format(stated, body)
        beside = self._surroundings(body)
        self._body = Field("body", body, parsed.body_line, self._marker, beside)

    def _surroundings(self, body: str) -> tuple[str, ...]:
        """Return what the letter shows around the body: its values are of the body's field, to be filled with it."""
        plain = self.format == "text" or (self.format == "html" and self._theme == LETTER)
        if _BESIDE in body:
            raise TemplateError("body: the text has a control character in it.", "Take the U+001E out.")
        shown = ("preheader", "unsubscribe", "postal_address")
        if plain or not {*shown} & self._fields.keys():
            return ()
        preheader, links, address = (
            [item.source if isinstance(item, Field) else str(item) for item in self._fields.get(name, [""])]
            for name in shown
        )
        return preheader[0], first_uri([t.strip().strip("<>") for t in links]), address[0]

    def _field(self, name: str, value: Any, line: int = 0) -> Field:
        if _CONTROL.search(str(value)):
            cause = (
                f"{name}: the text has a line break or another control character in it; headers are one line."
            )
            raise TemplateError(cause, "Put it on one line.", line=line or None)
        return Field(name, str(value), line, self._marker)

    @staticmethod
    def _checked_format(stated: Any, body: str) -> str:
        if stated is not None:
            if str(stated).strip().lower() not in FORMATS:
                cause = f"format: {stated!r} is none of {', '.join(FORMATS)}."
                raise OptionError(cause)
            return str(stated).strip().lower()
        if looks_like_html(body):
            cause = (
                "body: this is HTML, but nothing says so, and as Markdown its tags would be shown as text."
            )
            raise TemplateError(cause, 'Say format="html" (or "markdown" to show the tags).')
        return "markdown"

    @property
    def parts(self) -> Parts:
        """The template taken apart."""
        return Parts(self._fields, self._headers, self._body, self._marker)

    @property
    def values(self) -> Mapping[str, Any]:
        """The names that every row has besides its own."""
        return self._values

    @property
    def paths(self) -> frozenset[tuple[str, ...]]:
        """The names that its fields use of a row, each with what is asked of it: ``("Owner", "Name")``.

        What only running it can tell is missing, such as what a function of ``values`` takes of its row.
        """
        found = (path for field in self.parts.dynamic for path in field.paths())
        return frozenset(path for path in found if path[0] not in self._values)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the template sets, the body aside."""
        return tuple(self._fields)

    @property
    def sender(self) -> str:
        """The From field as it is written, before a row fills it; "" when there is none."""
        found = self._fields.get("from_") or [""]
        return found[0].source if isinstance(found[0], Field) else str(found[0])

    @property
    def variants(self) -> Mapping[str, Template]:
        """A Template for each of its `Variants`, by name; {} where no field has any. It itself has the first texts."""
        return self._variants

    @property
    def event(self) -> Any:
        """What ``event=`` was given: an Event, a function of a row, or None."""
        return self._event

    @property
    def fingerprint(self) -> str:
        """A hash of everything that every row shares: head, body, options and the files they name."""
        state = hashlib.sha256(self.source.encode("utf-8", "surrogatepass"))
        for name, value in sorted(self._given.items()):
            state.update(f"\0{name}\0".encode())
            for item in value if isinstance(value, list | tuple) else [value]:
                state.update(_printed(item))
        if self._theme != LETTER:
            state.update(self._theme.source.encode())
        for item in (*self._fields.get("attach", ()), *self._fields.get("inline", ())):
            if isinstance(item, Field) and item.static:
                path = self.attach_root / item.source.strip()
                state.update(path.read_bytes() if path.is_file() else b"")
        return state.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # It is compiled anew, from what it was made of; files are read where the copy is.
        values = {name: value for name, value in self._values.items() if name != _BODY}
        return _copied, (self.parsed, self.name, self.attach_root, values)

    def with_(self, **fields: Any) -> Template:
        """Return a copy whose *fields* win over this one's."""
        return Template(self, name=self.name, attach_root=self.attach_root, values=self._values, **fields)

    def with_source(self, text: str, **fields: Any) -> Template:
        """Return a copy of which *text* is head and body; what was given in Python stays, and so does the folder.

        *fields* win over both.

        Raises:
            TemplateError: A syntax error, with its line.
        """
        was = self.parsed
        parsed = dataclasses.replace(
            _Source.from_text(text), given=self._given, name=was.name, root=was.root, format=was.format
        )
        return Template(parsed, name=self.name, attach_root=self.attach_root, values=self._values, **fields)

    def __repr__(self) -> str:
        subject = self._fields.get("subject")
        text = subject[0].source if subject and isinstance(subject[0], Field) else ""
        return f"<Template {self.name or 'text'}: {text!r}, {self.format}>"

    # ----------------------------------------------------------------------------------------- fill

    def fill(
        self, cells: Mapping[Any, Any] | None = None, /, *, values: Mapping[str, Any] | None = None
    ) -> Message:
        """Return the Message that one row makes.

        Args:
            cells: The row: column names with their cells. Names that are identifiers stand for
                themselves; all of them stand in ``row``. None when there is no row.
            values: More names; the row's win over them.

        Raises:
            TemplateError: A missing cell or unknown name was printed, or a value does not fit its place.
            MessageError: What results is no valid message (an address, an attachment).
        """
        return self.fill_row(Row(self.names(cells, values)))

    def located(self, error: MailError) -> MailError:
        """Return an error with this template's name in front."""
        return _located(error, self.name) if isinstance(error, TemplateError) else error

    def fill_row(self, row: Row) -> Message:
        """Return the Message of a row of which something is known already; see `fill`."""
        try:
            return self._message(row)
        except TemplateError as error:
            raise _located(error, self.name) from None

    def addresses(self, key: str, row: Row) -> list[Address]:
        """Return the addresses of one field of a row; see `fill`."""
        try:
            return [a for item in self._fields.get(key, ()) for a in addresses_of(item, row)]
        except TemplateError as error:
            raise _located(error, self.name) from None

    def names(self, cells: Mapping[Any, Any] | None, values: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return everything that the template's fields may use of a row."""
        if cells is None:
            names = {**self._values, **(values or {})}
            return {k: _MissingCell(k) if v is None else v for k, v in names.items()}
        row = named_cells(cells)
        return {
            **self._values,
            **(values or {}),
            **{k: v for k, v in row.items() if k.isidentifier()},
            "row": row,
        }

    def _message(self, row: Row) -> Message:
        fields: dict[str, Any] = {}
        for key, items in self._fields.items():
            fields[key] = self._value(key, items, row)
        headers = {k: f.plain(row) for k, f in self._headers.items()}
        event = _event_of(self._event, row, [*fields.get("to", ()), *fields.get("cc", ())])
        filled = row.filled(self._body)
        letter = self.letter(filled.skeleton)
        content = _Contents(filled.slots, self.format, self._body, row.show)
        text, html = letter.fill(content)
        if self._marker.touches(f"{text}{html or ''}"):
            raise self._body.error("text that values had been printed into is part of a list.", _IN_A_LIST)
        body = text if letter.body is letter.text else letter.only_body(content)
        inline = (*fields.pop("inline", ()), *content.images())
        return Message(
            **fields,
            headers=headers,
            event=event,
            body=body if self.format != "html" else html or "",
            format=self.format,
            theme=self._theme,
            inline_css=self._inline_css,
            text=text,
            html=html,
            inline=inline,
            attach_root=self.attach_root,
            warnings=content.warnings(),
        )

    def _value(self, key: str, items: list[Any], row: Row) -> Any:
        if key in ADDRESS_FIELDS:
            found = [a for item in items for a in addresses_of(item, row)]
            return found if key != "from_" else _one_sender(found)
        if key in _FILES:
            return [f for item in items for f in _files(item, row)]
        texts = [item.plain(row) if isinstance(item, Field) else item for item in items]
        return texts if key == "unsubscribe" and len(texts) > 1 else texts[0]

    def letter(self, skeleton: str) -> Letter:
        """Return a skeleton of the body in its finished form; made once for all rows."""
        if len(skeleton) > bounds.SKELETON:
            cause = f"the text has more than {bounds.SKELETON:,} characters."
            raise self._body.error(cause, "Attach what is long, or print it as one value.")
        with self._lock:
            letter = self._letters.get(skeleton)
            if letter is not None:
                self._letters.move_to_end(skeleton)
                return letter
        try:
            letter = Letter.of(skeleton, self.format, self._marker, self._theme, inline=self._inline_css)
        except SlotError as error:
            raise self._body.error(str(error)) from None
        except UnicodeEncodeError:
            cause = "the text has half of a character in it."
            raise self._body.error(cause, "Save it as UTF-8 anew.") from None
        with self._lock:
            self._letters[skeleton] = letter
            while len(self._letters) > _CACHED_SKELETONS:
                self._letters.popitem(last=False)
        return letter


@dataclass(frozen=True, slots=True)
class Parts:
    """A template taken apart, for those who print many rows of it.

    Attributes:
        fields: The head's fields, each a list of Fields and of values that were given in Python.
        headers: Further headers by name.
        body: The body.
    """

    fields: Mapping[str, list[Any]]
    headers: Mapping[str, Field]
    body: Field
    marker: Marker

    @property
    def dynamic(self) -> tuple[Field, ...]:
        """Every Field that a row has to run."""
        items = [item for found in self.fields.values() for item in found]
        return tuple(
            f for f in (*items, *self.headers.values(), self.body) if isinstance(f, Field) and not f.static
        )


class Row:
    """One row on its way into a template: its names, and what is known of it already.

    Args:
        names: Everything that a field may use.
        known: Fields that were filled before; a function that a template calls is not called twice.
        file: Makes an Attachment of a path, or leaves that to the Message; told whether the path is the
            template's alone.
        show: Renders an object.
    """

    def __init__(
        self,
        names: Mapping[str, Any],
        known: Mapping[Field, Filled] | None = None,
        file: Callable[[str, bool], Any] = lambda path, _: path,
        show: Callable[[object], Fragment] = render,
    ) -> None:
        self.names = names
        self.file = file
        self.show = show
        self._known = known or {}

    def filled(self, field: Field) -> Filled:
        """Return a field's skeleton and values."""
        return self._known.get(field) or field.fill(self.names)


Cells = Mapping[Any, Any]


class Runner:
    """Runs some fields of a template for row after row, with one context and the names that they use alone.

    What it gives of a row is what `Template.fill` would; but its errors come as they are, and are to be
    explained by that one.

    Args:
        template: Whose fields they are.
        fields: Those to run.
        values: More names for every row.
        submit: Has functions whose values the body prints called elsewhere; what it gives of those are Laters.
    """

    def __init__(
        self,
        template: Template,
        fields: Sequence[Field],
        values: Mapping[str, Any] | None,
        submit: Submit | None = None,
    ) -> None:
        self.fields = fields
        self._submit = submit
        self._names = functools.partial(template.names, values=values)
        self._sink = Sink(template.parts.marker)
        self._hint = template.parts.marker.hint
        columns = [f.columns for f in fields]
        self._columns = sorted({c for found in columns for c in found or ()})
        shared = {**_environment().make_globals(None), **self._names({})}
        del shared["row"]
        self._shared = {**shared, _SINK: self._sink}
        # Assigned names would reach the next field; ``row`` used as a whole, and a function that is given the
        # context, need every column.
        needy = any(hasattr(value, "jinja_pass_arg") for value in shared.values())
        self._plain = None not in columns and not needy and not any(f.assigns for f in fields)
        self._wanted = sorted({n for f in fields for n in f.names} - {"row"})
        # What the fields print that only print cells, in one go; and which of it is each one's.
        printed = [cell for f in fields if f.prints is not None for cell in f.prints.cells]
        self._cell_names = [cell.name for cell in printed]
        self._labels = [cell.label for cell in printed]
        self._lines = [cell.line for cell in printed]
        # What nobody has is a missing cell, which is refused.
        self._defaults = [shared.get(cell.name) if cell.shared else None for cell in printed]
        ends = accumulate(0 if f.prints is None else len(f.prints.cells) for f in fields)
        self._spans = [slice(start, end) for start, end in pairwise([0, *ends])]
        self._skeletons = [None if f.prints is None else f.prints.skeleton for f in fields]
        self._key = tuple(piece for skeleton in self._skeletons for piece in (None, skeleton))

    def run(self, cells: Cells) -> tuple[tuple[str | None, ...], list[list[Slot]]]:
        """Return the pieces of all skeletons, None before each field, and each field's values."""
        printed = self._printed(cells)
        if printed is not None and None not in self._skeletons:
            return self._key, [printed[span] for span in self._spans]
        names = self._some(cells) if self._plain else {**self._shared, **self._names(cells)}
        context = self._context(names)
        sink = self._sink
        pieces: list[str | None] = []
        found: list[list[Slot]] = []
        for item, skeleton, span in zip(self.fields, self._skeletons, self._spans, strict=True):
            pieces.append(None)
            if skeleton is not None and printed is not None:
                pieces.append(skeleton)
                found.append(printed[span])
                continue
            sink.begin(item)
            sink.submit = self._submit if item.name == "body" else None
            yielded = item.pieces(context if self._plain else self._context(names))
            # A field that has a skeleton of its own has it in one piece, whichever way it is run.
            pieces += yielded if skeleton is None else ["".join(yielded)]
            found.append(sink.slots)
        return tuple(pieces), found

    def _printed(self, cells: Cells) -> list[Slot] | None:
        """Return the values of the fields that only print cells; None when one of them is for Jinja to judge."""
        values = list(map(cells.get, self._cell_names, self._defaults))
        hint = self._hint
        for value in values:
            if type(value) is str:
                if hint in value:
                    return None
            elif type(value) not in _NEVER_MISSING:
                if isinstance(value, str):
                    return None
                refuse_unprintable(value, "")
        told = zip(values, self._labels, self._lines)  # noqa: B905 - one each, and strict costs
        return list(map(_new_slot, repeat(Slot), told))

    def _some(self, cells: Cells) -> dict[str, Any]:
        names = self._shared.copy()
        for name in self._wanted:
            if name in cells:
                value = cells[name]
                names[name] = _MissingCell(name) if type(value) is not str and is_missing(value) else value
        if self._columns:
            known = ((c, cells[c]) for c in self._columns if c in cells)
            names["row"] = {c: _MissingCell(c) if is_missing(v) else v for c, v in known}
        return names

    @staticmethod
    def _context(names: dict[str, Any]) -> Context:
        environment = _environment()
        return environment.context_class(environment, names, None, {})


def _printed(item: Any) -> bytes:
    """Return what tells one option's value from another: a file's content, else what it prints as."""
    if isinstance(item, Attachment):
        return f"{item.name}\0{hashlib.sha256(item.content).hexdigest()}".encode()
    if isinstance(item, Event):
        return item.identity.encode("utf-8", "surrogatepass")
    if isinstance(item, Variants):
        return f"{list(item.items())}{item.shares}".encode("utf-8", "surrogatepass")
    return str(item if isinstance(item, str | Path | Address) else type(item)).encode(
        "utf-8", "surrogatepass"
    )


def _first(value: Any) -> Any:
    return value[value.names[0]] if isinstance(value, Variants) else value


def _one_choice(given: Mapping[str, Any]) -> Variants | None:
    """Return the Variants of some fields, which have to agree; None where there are none.

    Raises:
        OptionError: A field cannot have any, or two fields differ in names or shares.
    """
    found = {k: v for k, v in given.items() if _varies(k, v)}
    for name in found:
        if name not in VARIED:
            cause = f"{name.rstrip('_')}: this field cannot have Variants."
            raise OptionError(cause, f"These can: {', '.join(VARIED)}.")
    for (one, first), (other, second) in pairwise(found.items()):
        if (first.names, first.shares) != (second.names, second.shares):
            cause = f"The Variants of {one} and of {other} do not have the same names and shares."
            raise OptionError(cause, "A row gets one name for all of its fields: give both the same.")
    return next(iter(found.values()), None)


def _varies(name: str, value: Any) -> bool:
    held = list(value) if isinstance(value, list | tuple) else []
    if name == "headers" and isinstance(value, Mapping) and not isinstance(value, Variants):
        held = list(value.values())
    if any(isinstance(each, Variants) for each in held):
        raise OptionError(
            f"{name.rstrip('_')}: Variants cannot stand in a list.",
            f"These fields can have some: {', '.join(VARIED)}.",
        )
    return isinstance(value, Variants)


def _located(error: TemplateError, name: str) -> TemplateError:
    """Return the error with the template file's name in front."""
    if not name or error.cause.startswith(name):
        return error
    return TemplateError(f"{name}: {error.cause}", error.fix, line=error.line, column=error.column)


# ------------------------------------------------------------------------------------ the body's part


@dataclass(frozen=True, slots=True)
class Letter:
    """A body's skeleton after Markdown, CSS inlining and the text twin.

    Attributes:
        body: The body alone, where the text has a footer besides; else the text.
    """

    text: Pieces
    html: Pieces | None
    body: Pieces

    @classmethod
    def of(cls, skeleton: str, kind: str, marker: Marker, theme: Theme, *, inline: bool) -> Letter:
        body, preheader, link, address = [*skeleton.split(_BESIDE), "", "", ""][:4]
        if kind == "text":
            pieces = plain_pieces(body, marker)
            return cls(pieces, None, pieces)
        if kind == "html":
            html_pieces(body, marker)  # refuses values in style sheets, which inlining would make vanish
        link, address = link.strip(), address.strip()
        around = {"preheader": preheader.strip(), "unsubscribe": link, "postal_address": address}
        html = letter_html(body, kind, theme, **around, inline=inline)
        text = letter_text(html if kind == "html" and theme == LETTER else body, kind, theme, link, address)
        pieces = plain_pieces(text, marker)
        return cls(pieces, html_pieces(html, marker), pieces if text == body else plain_pieces(body, marker))

    def only_body(self, content: _Contents) -> str:
        return "".join(p if isinstance(p, str) else content.text(p) for p in self.body)

    def fill(self, content: _Contents) -> tuple[str, str | None]:
        text = "".join(p if isinstance(p, str) else content.text(p) for p in self.text)
        return text, None if self.html is None else content.join(self.html)


_PARAGRAPH = re.compile(r"<p(?: [^>]*)?>\s*$")


class _Contents:
    """The values of one row, each turned into text and HTML when first asked for."""

    def __init__(
        self, slots: tuple[Slot, ...], kind: str, field: Field, show: Callable[[object], Fragment]
    ) -> None:
        self._slots = slots
        self._show = show
        self._kind = kind
        self._field = field
        self._fragments: dict[int, Fragment] = {}

    def images(self) -> tuple[Attachment, ...]:
        return merged_images(self._fragments.values()) if self._kind != "text" else ()

    def warnings(self) -> tuple[str, ...]:
        return lints(self._slots)

    def text(self, place: Place) -> str:
        slot = self._slots[place.index]
        value = slot.value
        if isinstance(value, Markup):
            return html_to_text(str(value)).strip()
        if is_plain(value):
            return self._escaped(slot, place.spot)
        return self._fragment(place.index, slot).text

    def join(self, pieces: Pieces) -> str:
        out: list[str] = []
        drop = ""
        for piece in pieces:
            if isinstance(piece, str):
                out.append(piece.removeprefix(drop) if drop else piece)
                drop = ""
                continue
            html, block = self._html(piece)
            if block and out and (opening := _PARAGRAPH.search(out[-1])):
                # A table inside a paragraph would end it: a value alone in one takes its place.
                following = "</p>"
                out[-1] = out[-1][: opening.start()]
                drop = following
            out.append(html)
        return "".join(out)

    def _html(self, place: Place) -> tuple[str, bool]:
        slot = self._slots[place.index]
        value = slot.value
        if is_plain(value) and not isinstance(value, Markup):
            return broken_lines(self._escaped(slot, place.spot), place.spot, self._kind), False
        if place.spot is not Spot.TEXT:
            cause = (
                f"the value of {slot.label!r} is a {type(value).__name__}, which cannot stand inside a tag."
            )
            raise self._field.error(cause, "Put it into the text.", slot.line, slot.label)
        if isinstance(value, Markup):
            return str(value), False
        fragment = self._fragment(place.index, slot)
        return fragment.html, fragment.block

    def _escaped(self, slot: Slot, spot: Spot) -> str:
        text = _as_text(slot, self._field)
        if "\0" in text:
            cause = f"the value of {slot.label!r} has a NUL character in it."
            raise self._field.error(cause, "Clean that cell.", slot.line, slot.label)
        try:
            return escape(text, spot)
        except SlotError as error:
            raise self._field.error(f"{slot.label!r}: {error}", line=slot.line, column=slot.label) from None
        except UnicodeEncodeError:
            # Only a URL is encoded here; elsewhere the Message refuses it.
            cause = f"the value of {slot.label!r} has half of a character in it."
            raise self._field.error(cause, "Clean that cell.", slot.line, slot.label) from None

    def _fragment(self, index: int, slot: Slot) -> Fragment:
        if index not in self._fragments:
            try:
                self._fragments[index] = self._show(slot.value)
            except MessageError as error:
                raise self._field.error(
                    f"{slot.label!r}: {error.cause}", error.fix, slot.line, slot.label
                ) from None
        return self._fragments[index]


def broken_lines(text: str, spot: Spot, kind: str) -> str:
    """Return a value's HTML with its line breaks kept, as Markdown texts keep theirs."""
    if kind == "markdown" and spot is Spot.TEXT:
        return text.replace("\r\n", "\n").replace("\n", "<br>\n")
    return text


_LINTED = (float, dt.datetime)


def lints(slots: Iterable[Slot]) -> tuple[str, ...]:
    """Return what is odd about values, each once."""
    # Most values are of types that nothing is odd about.
    odd = [_lint(slot) for slot in slots if isinstance(slot[0], _LINTED)]
    return tuple(dict.fromkeys(filter(None, odd))) if odd else ()


def _lint(slot: Slot) -> str:
    """Return a warning about a value that prints as nobody would write it, or ""."""
    value, name = slot.value, _expression(slot.label)
    if isinstance(value, float) and value.is_integer():
        return (
            f"column {slot.label!r} prints as {value}; write {{{{ {name} | number }}}}, "
            "or read that column as text (dtype=str)"
        )
    if isinstance(value, dt.datetime) and (value.hour, value.minute, value.second) == (0, 0, 0):
        return f"column {slot.label!r} prints as {value}; write {{{{ {name} | date }}}}"
    return ""


# ------------------------------------------------------------------------------- addresses and files


def addresses_of(item: Any, row: Row) -> list[Address]:
    """Return the addresses of one item of an address field: split first, filled after."""
    if not isinstance(item, Field):
        return [item if isinstance(item, Address) else Address.parse(str(item))]
    filled = row.filled(item)
    found: list[Address] = []
    for piece in split_addresses(filled.skeleton):
        number = item.marker.sole(piece)
        try:
            if number is not None:
                found += _whole(item, filled.slots[number])
                continue
            name, spec = split_mailbox(piece)
            found.append(make_address(*(_joined(item, filled, part).strip() for part in (spec, name))))
        except TemplateError:
            raise
        except MessageError as error:
            column = _first_label(item, filled, split_mailbox(piece)[1])
            raise item.error(
                f"column {column!r}: {error.cause}" if column else error.cause, error.fix, column=column
            ) from None
    return found


def _whole(item: Field, slot: Slot) -> list[Address]:
    """Return the address of a slot that is a whole address; ``| addresses`` gives several."""
    value = slot.value
    if isinstance(value, filters.AddressList):
        return [v if isinstance(v, Address) else Address.parse(str(v)) for v in value.items]
    if isinstance(value, Address):
        return [value]
    if isinstance(value, list | tuple | set):
        cause = f"the value of {slot.label!r} is a list."
        raise item.error(
            cause, f"Write {{{{ {_expression(slot.label)} | addresses }}}}.", slot.line, slot.label
        )
    text = _header_piece(0, Filled("", (slot,)), item).strip()
    if not text:
        return []
    if len(split_addresses(text)) > 1:
        cause = f"the value of {slot.label!r} holds more than one address: {text[:60]!r}."
        raise item.error(
            cause, f"Write {{{{ {_expression(slot.label)} | addresses }}}}.", slot.line, slot.label
        )
    try:
        return [Address.parse(text)]
    except MessageError as error:
        raise item.error(f"column {slot.label!r}: {error.cause}", error.fix, slot.line, slot.label) from None


def _joined(item: Field, filled: Filled, text: str) -> str:
    return "".join(_header_piece(p, filled, item) for p in item.split(text))


def _first_label(item: Field, filled: Filled, text: str) -> str | None:
    numbers = [p for p in item.split(text) if isinstance(p, int)]
    return filled.slots[numbers[0]].label if numbers else None


def _one_sender(found: list[Address]) -> Address | None:
    if len(found) > 1:
        cause = f"from: a mail has one sender, this one has {len(found)}."
        raise TemplateError(cause, "Use reply_to for further addresses.")
    return found[0] if found else None


# ---------------------------------------------------------------------------------------- the event


def _checked_maker(given: Any) -> Any:
    """Return what ``event=`` was given: an Event, a function that makes one, or None."""
    if not callable(given):
        event = checked_event(given)
        found = (
            None if event is None else _JINJA.search(f"{event.summary} {event.location} {event.description}")
        )
        if found is not None:
            cause = f"event: it has {found[0]!r} in it, and no Jinja2 works in an event."
            raise TemplateError(cause, "Give a function instead: event=lambda row: Event(row['Title'], …).")
    return given


_JINJA = re.compile(r"\{\{.{0,40}|\{%.{0,40}")


def _event_of(maker: Any, row: Row, people: Iterable[Address]) -> Event | None:
    """Return the Event of a row."""
    if not callable(maker):
        return checked_event(maker)
    cells = row.names.get("row", row.names)
    try:
        made = checked_event(maker(given_cells(cells)))
    except MailError:
        raise
    except Exception as error:
        cause = f"event: the function failed with {type(error).__name__}: {_one_line(error)}."
        raise TemplateError(cause, "It is given a row as a dict of its cells.") from error
    return None if made is None else made.named_for(a.wire for a in people)


def _files(item: Any, row: Row) -> list[Any]:
    """Return the files of one item of attach or inline: split at semicolons first, filled after."""
    if not isinstance(item, Field):
        return [row.file(str(item), True) if isinstance(item, Path) else item]  # noqa: FBT003 - the path is the template's
    filled = row.filled(item)
    found: list[Any] = []
    for piece in filter(None, (p.strip() for p in filled.skeleton.split(";"))):
        number = item.marker.sole(piece)
        value = filled.slots[number].value if number is not None else None
        if number is not None and not isinstance(value, str):
            found.append(value if isinstance(value, Attachment | Path) else Attachment(value))
        else:
            found.append(row.file(_joined(item, filled, piece), not item.marker.holds(piece)))
    return found


def _copied(parsed: _Source, name: str, attach_root: Path, values: Mapping[str, Any]) -> Template:
    """Return the copy of a Template, in this process or another."""
    return Template(parsed, name=name, attach_root=attach_root, values=values)


# -------------------------------------------------------------------------------------------- source


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A template's text, taken apart before Jinja or a value comes near it.

    Attributes:
        head: Each field of the head with its line.
        given: Fields that were given in Python, of the Template that this one copies.
    """

    text: str
    head: Mapping[str, tuple[Any, int]]
    body: str
    body_line: int
    name: str = ""
    root: Path | None = None
    format: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str | Path | Template | _Source) -> _Source:
        if isinstance(source, _Source):
            return source
        if isinstance(source, Template):
            return source.parsed
        if isinstance(source, Path) or _names_a_file(source):
            return cls.from_file(Path(source))
        return cls.from_text(source)

    @classmethod
    def from_file(cls, path: Path) -> _Source:
        known = SUFFIXES.get(path.suffix.lower())
        if known is None:
            cause = f"The template file {str(path)!r} ends in none of {', '.join(SUFFIXES)}."
            raise TemplateError(cause, "Rename it, or pass its text with format=.")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise TemplateError(
                f"The template file {str(path)!r} is not UTF-8.", "Save it as UTF-8."
            ) from None
        except OSError as error:
            cause = f"The template file {str(path)!r} cannot be read: {error.strerror}."
            raise TemplateError(cause, f"The working folder is {str(Path.cwd())!r}.") from None
        try:
            parsed = cls.from_text(text)
        except TemplateError as error:
            raise _located(error, path.name) from None
        return dataclasses.replace(parsed, name=path.name, root=path.parent, format=known)

    @classmethod
    def from_text(cls, text: str) -> _Source:
        lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        first = next((i for i, line in enumerate(lines) if line.strip()), None)
        if first is None or lines[first].strip() != "---":
            return cls(text=text, head={}, body="\n".join(lines), body_line=1)
        last = next((i for i in range(first + 1, len(lines)) if lines[i].strip() == "---"), None)
        if last is None:
            cause = f"line {first + 1}: the head begins with --- but no second --- ends it."
            raise TemplateError(cause, "Put a line with --- between the head and the body.", line=first + 1)
        head = _parse_head(lines[first + 1 : last], first + 2)
        return cls(text=text, head=head, body="\n".join(lines[last + 1 :]), body_line=last + 2)


def _names_a_file(text: str) -> bool:
    """Tell a path from a template's text: one line without Jinja that ends like a template file."""
    return (
        "\n" not in text
        and "{" not in text
        and Path(text.strip()).suffix.lower() in SUFFIXES
        and " " not in Path(text).suffix
    )


def _parse_head(lines: list[str], start: int) -> dict[str, tuple[Any, int]]:
    """Return the head's fields; a field that may repeat collects its lines in a list."""
    head: dict[str, tuple[Any, int]] = {}
    for name, value, number in _head_lines(lines, start):
        field_name = _field_name(name, number)
        if field_name not in head:
            head[field_name] = ([value] if field_name in _REPEATED else value, number)
        elif field_name in _REPEATED:
            head[field_name][0].append(value)
        else:
            cause = f"line {number}: {name!r} stands in the head twice."
            raise TemplateError(cause, "Keep one of them.", line=number)
    return head


def _head_lines(lines: list[str], start: int) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    for number, line in enumerate(lines, start):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] in " \t" and found:
            name, value, first = found[-1]
            found[-1] = (name, f"{value} {line.strip()}", first)
        elif match := _HEAD_LINE.fullmatch(line.rstrip()):
            found.append((match[1], match[2].strip(), number))
        else:
            cause = f"line {number}: {line[:60]!r} is no line of a head."
            raise TemplateError(cause, "Write Name: value.", line=number)
    return found


def _field_name(name: str, line: int) -> str:
    if name.lower().startswith("x-"):
        return name
    plain = name.lower().replace("-", "_")
    plain = "from_" if plain == "from" else plain
    if plain == "event":
        raise OptionError(
            f"line {line}: an event cannot stand in the head.", "Give event=Event(…) in Python."
        )
    if plain not in FIELDS or plain in {"body", "headers"}:
        try:
            check_field_names([plain])
        except OptionError as error:
            raise OptionError(f"line {line}: {error.cause}", error.fix) from None
        raise OptionError(
            f"line {line}: {name!r} cannot stand in the head.", "The body follows the second ---."
        )
    return plain
