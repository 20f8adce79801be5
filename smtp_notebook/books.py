"""A notebook as the mail itself: `send_notebook`, once, or once per row with the row's cells as its parameters.

Reading and showing it is `pages`' work, running it `runs`', and `api` sends: one mail with `api.send`, rows with
`api.mail_merge`, where the notebook stands as a value in the template. So a campaign decides which rows are due
before a notebook is run for one.
"""

from __future__ import annotations

import builtins
import datetime as dt
import json
import keyword
import os
import pickle
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from jinja2 import Undefined

from smtp_notebook import _sync, api, servers
from smtp_notebook import connection as connections
from smtp_notebook.bodies import looks_like_html
from smtp_notebook.fields import check_field_names
from smtp_notebook.letters import fragment
from smtp_notebook.message import Attachment, Message
from smtp_notebook.outcome import MailError, MessageError, OptionError, Outcome, Report
from smtp_notebook.pages import Book, html_file, letter, notebook_file, read
from smtp_notebook.render import Fragment
from smtp_notebook.runs import TIMEOUT, Plan, Ran, aexecuted, executed, refuse_unknown_kernel
from smtp_notebook.servers import Via
from smtp_notebook.template import Template

__all__ = ["asend_notebook", "plain_cells", "send_notebook"]

#: What only `mail_merge` has.
_MERGING = frozenset(
    {"values", "limit", "test_to", "changed", "on_problem", "journal", "progress", "on_outcome"}
)
#: What the notebook itself can be attached as.
_FILES: Mapping[str, Callable[[Book, bool], Attachment]] = {
    "html": lambda book, code: html_file(book, code=code),
    "ipynb": lambda book, _: notebook_file(book),
}


# ------------------------------------------------------------------------------------------ one notebook


@dataclass(frozen=True, slots=True)
class _Made:
    """What comes of a notebook: the mail's subject, its text, and the files that are the notebook again."""

    title: str
    shown: Fragment
    files: tuple[Attachment, ...]


@dataclass(frozen=True, slots=True)
class _Order:
    """What is asked for, checked: nothing of it is a surprise at the end of a long run.

    Attributes:
        attach: What is attached beside; "html" and "ipynb" are the notebook.
        above: Markdown above the notebook.
    """

    book: Book
    run: bool
    plan: Plan
    parameters: dict[str, Any]
    code: bool
    attach: Sequence[Any]
    above: str

    @classmethod
    def of(
        cls,
        path: Any,
        plan: Plan,
        attach: Any,
        fields: dict[str, Any],
        *,
        run: bool,
        code: bool,
        parameters: Any,
    ) -> Self:
        """Take the order's part out of *fields*, and check it."""
        check_field_names(fields)
        for name in ("format", "inline"):
            if name in fields:
                raise OptionError(f"{name}: the mail's text is the notebook.", "Leave it out.")
        above = fields.pop("body", None) or ""
        if not isinstance(above, str) or looks_like_html(above):
            raise MessageError("body: the text above the notebook is Markdown.", "Write it without tags.")
        if parameters and not run:
            raise OptionError("parameters: the notebook is not run.", "Add run=True.")
        given = {str(k): plain_value(v) for k, v in dict(parameters or {}).items()}
        bad = next((k for k in given if not _is_name(k)), None)
        if bad is not None:
            raise OptionError(f"parameters: {bad!r} is no name.", "Use letters, digits and _.")
        files = [attach] if not isinstance(attach, list | tuple) else attach
        book = read(path)
        if run:
            refuse_unknown_kernel(book, plan)
        elif not book.has_run:
            cause = f"{book.name}.ipynb has no outputs: it was not run, or saved without them."
            raise MessageError(cause, "Add run=True, or run it and save it.")
        return cls(book, run, plan, given, code, [f for f in files if f is not None and f != ""], above)

    @property
    def beside(self) -> list[Any]:
        """The attachments that are not the notebook."""
        return [f for f in self.attach if not _is_notebook(f)]

    @property
    def files(self) -> list[str]:
        """As what the notebook is attached."""
        return [f for f in self.attach if _is_notebook(f)]

    def made(self, ran: Ran) -> _Made:
        """Return what comes of the notebook after its run."""
        title, book = self.book.title, ran.book
        before = (f"✗ {ran.failure}",) if ran.failure else ()
        subject = f"{title} (failed: {ran.error})" if ran.failure else title
        files = tuple(_FILES[f](book, self.code) for f in self.files)
        return _Made(subject, letter(book, code=self.code, before=before), files)


def _is_notebook(item: Any) -> bool:
    return isinstance(item, str) and item in _FILES


def _message(order: _Order, made: _Made, message: Message) -> Message:
    """Return the mail of one notebook; *message* has all of it but the text and the notebook's files."""
    around: dict[str, Any] = {"theme": message.theme, "inline_css": message.inline_css}
    if message.preheader:
        around["preheader"] = "{{ preheader }}"
    if message.postal_address:
        around["postal_address"] = "{{ postal_address }}"
    links = [f"{{{{ links[{n}] }}}}" for n, _ in enumerate(message.unsubscribe)]
    if links:
        # The letter's footer has the first of the web.
        first = next((n for n, u in enumerate(message.unsubscribe) if u.lower().startswith("http")), 0)
        around["unsubscribe"] = links[first]
    values = {"preheader": message.preheader, "links": message.unsubscribe, "notebook": made.shown}
    values["postal_address"] = message.postal_address
    source = "{{ notebook }}"
    if order.above:
        source, values = (
            f"{{{{ above }}}}\n\n{source}",
            values | {"above": Fragment(fragment(order.above), order.above)},
        )
    shown = Template(source, format="markdown", **around).fill(values=values)
    text = {name: getattr(shown, name) for name in ("body", "format", "text", "html", "inline")}
    return message.with_(subject=message.subject or made.title, attach=(*made.files, *message.attach), **text)


# ---------------------------------------------------------------------------------------- one run per row


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def plain_value(value: Any) -> Any:
    """Return a value as papermill can write it: text, numbers, truth values, None, lists and dicts of these.

    An empty cell is None, dates are text as ISO 8601 has them, decimals are floats, and numpy's numbers are Python's.

    Raises:
        OptionError: It is something else.
    """
    if value is None or isinstance(value, Undefined) or type(value).__name__ in {"NAType", "NaTType"}:
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return plain_value(value.item())
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain_value(v) for k, v in value.items()}
    cause = f"parameters: a {type(value).__name__} cannot be written into a notebook."
    raise OptionError(cause, "Give text, numbers, truth values, dates, lists or dicts.")


def plain_cells(row: Mapping[str, Any], declared: str = "") -> dict[str, Any]:
    """Return the cells of a row that are parameters: under a name, and of a plain type.

    A name of Python's own, such as ``sum`` or ``type``, would break what the notebook calls; it is given only
    where *declared*, the source of the cell tagged ``parameters``, sets it.
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        own = hasattr(builtins, name) and not re.search(rf"^{re.escape(name)}\s*[:=]", declared, re.MULTILINE)
        if _is_name(name) and not own:
            try:
                found[name] = plain_value(value)
            except OptionError:
                continue
    return found


class _Rows:
    """The notebooks of a merge: each run once, when its row is first printed, and kept until the merge is over.

    What came of them lies in a private table of SQLite, which goes to disk when it grows: a mail that has to be
    printed again must be the same, and no second run would give that. Rows with the same cells share a run.
    """

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._declared = next(
            (str(c.source) for c in order.book.node.cells if "parameters" in (c.metadata.get("tags") or ())),
            "",
        )
        self._table = sqlite3.connect("")
        self._table.execute("CREATE TABLE made (key TEXT PRIMARY KEY, made BLOB) STRICT")
        self._last: tuple[str, _Made] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def shown(self, row: Mapping[str, Any]) -> Fragment:
        """Return the notebook as the text of a row's mail."""
        return self._made(row).shown

    def title(self, row: Mapping[str, Any]) -> str:
        """Return the subject of a row's mail where nobody gave one."""
        return self._made(row).title

    def file(self, row: Mapping[str, Any], number: int) -> Attachment:
        """Return one of the files that are a row's notebook."""
        return self._made(row).files[number]

    def _made(self, row: Mapping[str, Any]) -> _Made:
        parameters = plain_cells(row, self._declared) | self._order.parameters
        key = json.dumps(parameters, sort_keys=True)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        found = self._table.execute("SELECT made FROM made WHERE key = ?", (key,)).fetchone()
        made = pickle.loads(found[0]) if found else self._run(key, parameters)  # noqa: S301 - it was written below
        if not isinstance(made, _Made):
            raise MessageError(*made)
        self._last = (key, made)
        return made

    def _run(self, key: str, parameters: Mapping[str, Any]) -> _Made | tuple[str, str]:
        """Run the notebook, and keep what came of it: a failure too, for a row is printed again to explain it."""
        made: _Made | tuple[str, str]
        try:
            made = self._order.made(executed(self._order.book, self._order.plan, parameters))
        except MailError as error:
            made = (error.cause, error.fix)
        self._table.execute("INSERT INTO made VALUES (?, ?)", (key, pickle.dumps(made)))
        return made


def _merged(order: _Order, df: Any, options: Mapping[str, Any], fields: dict[str, Any]) -> Report:
    """Send one notebook per row."""
    with _Rows(order) as rows:
        # No frame has columns of these names, and a row's columns win over values.
        values = {"__notebook__": rows.shown, "__title__": rows.title, "__file__": rows.file}
        # The marks say that braces may arrive, which code is full of, and make another notebook another template.
        state = f"{order.book.fingerprint} {order.code}"
        source = f"{order.above}\n\n{{{{ __notebook__(row) }}}}{{% raw %}}{{% endraw %}}{{# {state} #}}"
        files = [f"{{{{ __file__(row, {n}) }}}}" for n, _ in enumerate(order.files)]
        asked = {"subject": "{{ __title__(row) }}"} | {k: v for k, v in fields.items() if v is not None}
        root = asked.pop("attach_root", None)
        template = Template(
            source.lstrip("\n"), name=order.book.name, attach_root=root, format="markdown",
            attach=[*files, *order.beside], **asked,
        )  # fmt: skip
        given = {**(options.get("values") or {}), **values}
        return api.mail_merge(df, template, **{**options, "values": given})


# ------------------------------------------------------------------------------------------- the verbs


def send_notebook(
    path: Any,
    to: Any = None,
    *,
    run: bool = False,
    parameters: Mapping[str, Any] | None = None,
    kernel: str = "",
    timeout: float | None = TIMEOUT,
    on_error: str = "stop",
    code: bool = False,
    attach: Any = "html",
    attach_root: str | Path | None = None,
    df: Any = None,
    key: str | Sequence[str] | None = None,
    campaign: str = "",
    via: Via = None,
    once: bool = False,
    dry_run: bool = False,
    **fields: Any,
) -> Outcome | Report:
    """Send a notebook as a mail: its text and what its cells showed; with *df*, one personal run per row.

    ::

        send_notebook("report.ipynb", to="team@example.com", run=True)
        send_notebook("report.ipynb", df=leads, campaign="reports-2026-03", subject="For {{ Company }}")

    Args:
        path: The .ipynb file, or a NotebookNode of nbformat. It is never written.
        to: Who gets it. With *df* a template such as ``{{ Email }}``; by default the column with the addresses.
        run: Execute a copy first, from top to bottom, in a new kernel and in the notebook's folder.
        parameters: Values for the notebook, as papermill gives them: a cell that sets them behind the one
            tagged ``parameters``, or first. Text, numbers, truth values, dates (as ISO text), lists, dicts.
        kernel: The kernel's name; by default the notebook's own.
        timeout: How long one cell may take, in seconds; None for as long as it likes.
        on_error: When a cell fails, ``"stop"`` sends nothing, ``"send"`` sends what there is, with the end of
            the traceback and the failure in the subject.
        code: Show each cell's source above its outputs, in the HTML file too.
        attach: As what the notebook is attached: ``"html"``, one file that shows itself without the network
            (nbconvert writes it), ``"ipynb"``, which has everything, or None. A list may have both, and
            further files as in `send`.
        attach_root: The folder that paths in *attach* must stay in; the working one by default.
        df: Rows as in `mail_merge`: the notebook is run once for each, whose cells are its parameters,
            each under its column's name where that is a name and the cell is plain; an empty cell is None.
            *parameters* win over them. Rows with the same cells share a run.
        key: As in `mail_merge`.
        campaign: As in `mail_merge`: rows that it had already are neither sent nor run again.
        via: The server, as in `send`.
        once: As in `send`: skip a notebook that went before, unchanged.
        dry_run: Do everything, run it too, and send nothing.
        **fields: Fields of the mail as in `send`, with *df* templates as in `mail_merge`. ``subject`` is by
            default the notebook's first heading; ``body`` is Markdown above the notebook. With *df* also
            ``values limit test_to changed on_problem journal progress on_outcome`` of `mail_merge`.

    The mail shows what mail programs can, images inside it, and names the rest in a line. Of what is printed it has
    the newest 500 lines or 40,000 characters, of displays the newest 50 or 8 MB. Images of the web become links.
    Cells tagged ``remove-cell``, ``remove-input``, ``remove-output`` or ``hide-…`` are shown accordingly.

    With *df* every notebook is run before the first mail leaves, one after the other, as `mail_merge` checks every
    row; ``test_to`` with ``limit`` runs only so many. One that fails is its row's problem. What came of a run is kept
    on this machine until the call ends, so that none is run twice.

    Returns:
        An Outcome, with *df* a Report.

    Raises:
        MessageError: It is no notebook, has no outputs and is not run, failed in a cell, or something is not
            installed; nothing was sent.
        DeliveryError: As from `send`.
        PreflightError: As from `mail_merge`.
        KeyboardInterrupt: The kernel was interrupted; the one that ran the notebook has ended.
    """
    plan = Plan(kernel=kernel, timeout=timeout, on_error=on_error)
    options = {name: fields.pop(name) for name in _MERGING & fields.keys()}
    order = _Order.of(path, plan, attach, fields, run=run or df is not None, code=code, parameters=parameters)
    if df is not None:
        if once:
            raise OptionError("once: it is for one mail.", "With df= a campaign mails nobody twice.")
        options |= {"key": key, "campaign": campaign, "via": via, "dry_run": dry_run}
        asked = {**fields, "attach_root": attach_root} | ({} if to is None else {"to": to})
        return _merged(order, df, options, asked)
    _refuse_merging(options, key=key, campaign=campaign)
    message, server = _ready(order, to, via, attach_root, fields)
    ran = executed(order.book, plan, order.parameters) if run else Ran(order.book)
    return api.send(_message(order, order.made(ran), message), via=server, once=once, dry_run=dry_run)


async def asend_notebook(
    path: Any,
    to: Any = None,
    *,
    run: bool = False,
    parameters: Mapping[str, Any] | None = None,
    kernel: str = "",
    timeout: float | None = TIMEOUT,  # noqa: ASYNC109 - it is for each cell, and nbclient's word for it
    on_error: str = "stop",
    code: bool = False,
    attach: Any = "html",
    attach_root: str | Path | None = None,
    via: Via = None,
    once: bool = False,
    dry_run: bool = False,
    **fields: Any,
) -> Outcome:
    """Do what `send_notebook` does with one notebook, awaited; rows are for `send_notebook` alone."""
    plan = Plan(kernel=kernel, timeout=timeout, on_error=on_error)
    rows = {name: fields.pop(name) for name in (_MERGING | {"df", "key", "campaign"}) & fields.keys()}
    _refuse_merging(rows)
    order = _Order.of(path, plan, attach, fields, run=run, code=code, parameters=parameters)
    message, server = _ready(order, to, via, attach_root, fields)
    ran = Ran(order.book)
    if run:
        ran = await _sync.ticking(aexecuted(order.book, plan, order.parameters))
    return await api.asend(_message(order, order.made(ran), message), via=server, once=once, dry_run=dry_run)


def _refuse_merging(given: Mapping[str, Any], **more: Any) -> None:
    name = next(iter([*given, *(name for name, value in more.items() if value)]), None)
    if name is not None:
        raise OptionError(f"{name}: it is for rows.", "Give send_notebook the rows with df=….")


def _ready(
    order: _Order, to: Any, via: Via, attach_root: str | Path | None, fields: Mapping[str, Any]
) -> tuple[Message, Via]:
    """Return the mail without its notebook, and the server, its password asked for: before a long run, not after."""
    asked = {k: v for k, v in fields.items() if v is not None}
    message = Message(to=to, attach=order.beside, attach_root=attach_root, **asked)
    if not message.recipients:
        raise OptionError("Nobody is named who gets the mail.", "Give to=.")
    named = via is not None or connections.current() or connections.from_environment(os.environ)
    return message, servers.find_server(via).connection if named else None
