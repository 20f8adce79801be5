"""What the pages have of the code itself, so that it cannot drift: tables, and links from names.

Directives: ``states``, ``statuses``, ``fields``, ``settings``, ``logins``, ``limits`` and ``magic NAME``. A name of the package in code
type becomes a link by itself, in pages and docstrings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

import smtp_notebook
from smtp_notebook import Connection, Message, State
from smtp_notebook.fields import FIELDS
from smtp_notebook.outcome import DEFAULT_STATUS, FAILURES
from smtp_notebook.providers import PROVIDERS, Provider
from smtp_notebook.replies import Reply, Stage, classify

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = "smtp_notebook"
#: What a state means, and what running the merge again does with its row.
STATES = {
    "planned": ("Not tried: a dry run, or the run stopped first.", "tries it"),
    "sent": ("Accepted by the server for every recipient.", "skips it"),
    "partial": (
        "Accepted for some recipients; `refused` has the answer for each of the others.",
        "tries those who were put off, and nobody else",
    ),
    "skipped": ("The campaign had it already, or everybody of it is suppressed.", "skips it, as long as that is so"),
    "deferred": ("A temporary refusal, or the connection was lost before the mail was handed over.", "tries it"),
    "invalid": ("The check before sending refused it; it was never on a wire.", "checks it anew"),
    "refused": ("The server refused it for good.", "tries it once the row makes another mail"),
    "failed": ("Something unforeseen, before the mail was handed over.", "tries it"),
    "in_doubt": (
        "It may have been delivered: the mail was handed over, and the answer never came.",
        "lists it, and leaves it alone until `Journal.resolve()`",
    ),
}  # fmt: skip
#: What the connector's response codes say.
STATUSES = {
    200: "Done: accepted for every recipient.",
    202: "Accepted as a task, not finished: not tried, put off, sent in part, or not due.",
    400: "The mail or an address in it is at fault.",
    401: "The login failed, or one is needed.",
    403: "Not allowed: the sender, the policy of the server, or encryption that is missing.",
    404: "No such mailbox, or a host that takes no mail.",
    500: "Unforeseen, no attempts left, or in doubt.",
}


# --------------------------------------------------------------------------------------- what code says


def described(obj: Any, section: str) -> dict[str, str]:
    """Return the names of a docstring's section (``Args``, ``Attributes``) with what is said of each."""
    lines = (obj.__doc__ or "").expandtabs().splitlines()
    begin = next((i for i, line in enumerate(lines) if line.strip() == f"{section}:"), None)
    if begin is None:
        msg = f"{obj!r} has no section {section}"
        raise LookupError(msg)
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    found: dict[str, str] = {}
    for line in lines[begin + 1 :]:
        if not line.strip() or len(line) - len(line.lstrip()) <= indent:
            break
        name, colon, text = line.strip().partition(": ")
        if len(line) - len(line.lstrip()) == indent + 4 and colon:
            found[name.lstrip("*")] = text
            last = name.lstrip("*")
        else:
            found[last] += f" {line.strip()}"
    return found


def possible_statuses() -> dict[State, set[int]]:
    """Return the response codes that each state can have: the default, and those that a reply decides."""
    found = {state: {status} for state, status in DEFAULT_STATUS.items()}
    enhanced = ("", "5.1.1", "5.1.7", "5.2.2", "5.3.4", "5.6.0", "5.7.1", "5.7.8")
    for stage, code, more in product(Stage, range(400, 600), enhanced):
        verdict = classify(stage, Reply(code, f"{more} no".strip()))
        found[verdict.state].add(verdict.status)
    # merge.settled: no attempts are left.
    found[State.DEFERRED].add(500)
    return found


def same(written: Iterable[Any], known: Iterable[Any], what: str) -> None:
    """Stop the build where a page's words and the code's names are no longer the same."""
    if set(written) != set(known):
        msg = f"{what}: the documentation has {sorted(set(written))}, the code {sorted(set(known))}"
        raise LookupError(msg)


# ------------------------------------------------------------------------------------------- directives


class House(SphinxDirective):
    """A directive that makes a table."""

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.table:
        """Return a table; cells are Markdown."""
        group = nodes.tgroup("", *(nodes.colspec(colwidth=w) for w in widths), cols=len(widths))
        group += nodes.thead("", self._row(head))
        group += nodes.tbody("", *map(self._row, rows))
        return nodes.table("", group, classes=["house"])

    def _row(self, cells: Sequence[str]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *self._inline(c))) for c in cells))

    def _inline(self, text: str) -> list[nodes.Node]:
        return self.parse_inline(text)[0] if text else []


class States(House):
    """Every State: its codes, what it means, and what comes next."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        same(STATES, map(str, State), "states")
        codes = possible_statuses()
        rows = [
            (
                f"`{state}` {', '.join(map(str, sorted(codes[state])))}{' *failure*' if state in FAILURES else ''}",
                *STATES[state],
            )
            for state in State
        ]
        head = ("State and status", "It means", "Running the merge again")
        return [self.table(head, rows, (22, 44, 34))]


class Statuses(House):
    """Every response code of the connector."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        codes = possible_statuses()
        same(STATUSES, {code for found in codes.values() for code in found}, "status codes")
        rows = [
            (f"`{code}`", text, ", ".join(f"`{s}`" for s in State if code in codes[s]))
            for code, text in STATUSES.items()
        ]
        return [self.table(("Status", "It says", "States"), rows, (10, 60, 30))]


class Fields(House):
    """Every field of a mail, as the head and Python write it."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        said = described(Message, "Args")
        rows = []
        for name in FIELDS:
            head = {"body": "below the head", "headers": "`X-…`", "event": "in Python alone"}.get(name)
            head = head or f"`{name.rstrip('_').replace('_', '-')}:`"
            rows.append((head, f"`{name}=`", said[name]))
        return [self.table(("In a head", "In Python", "What it holds"), rows, (18, 18, 64))]


class Settings(House):
    """Every setting of a Connection, with its default."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        said = described(Connection, "Attributes")
        same(said, (f.name for f in dataclasses.fields(Connection)), "settings")
        rows = [
            (f"`{f.name}`", self._default(f.default), said[f.name]) for f in dataclasses.fields(Connection)
        ]
        return [self.table(("Setting", "Default", "What it is"), rows, (22, 16, 62))]

    @staticmethod
    def _default(value: Any) -> str:
        if value is dataclasses.MISSING:
            return "needed"
        return f"`{value:,}`" if type(value) is int else f"`{value!r}`"


class Logins(House):
    """Every provider: what goes into user and password there."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [
            (
                f"{p.title}: {', '.join(f'`{n}`' for n in (p.name, *p.aliases))}",
                _sentence(p.user),
                self._password(p),
            )
            for p in PROVIDERS
        ]
        return [self.table(("Provider", "`user=`", "Password"), rows, (20, 28, 52))]

    @staticmethod
    def _password(p: Provider) -> str:
        sign_in = {
            "google": " Or `oauth=GoogleOAuth(…)`.",
            "microsoft": " Or `oauth=MicrosoftOAuth(…)`.",
            "": "",
        }
        where = p.where.replace("https://", "")
        return f"{_sentence(p.password)}, {where}. *{p.passwords}.*{sign_in[p.oauth]}"


class Limits(House):
    """Every provider: its server, what it documents, and what that becomes."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [(p.title, self._server(p), self._facts(p), self._settings(p)) for p in PROVIDERS]
        head = ("Provider", "Server, and where it is described", "Documented limits", "Settings")
        return [self.table(head, rows, (14, 34, 28, 24))]

    @staticmethod
    def _server(p: Provider) -> str:
        security = {"starttls": "STARTTLS", "tls": "TLS"}[p.security]
        host = ", ".join(f"`{h}` ({r})" for r, h in p.regions.items()) or f"`{p.host}`"
        others = f"; also {p.ports}" if p.ports else ""
        pages = ", ".join(f"[{urlsplit(page).hostname}]({page})" for page in p.sources)
        return f"{host}, {p.port} ({security}){others}; {pages}"

    @staticmethod
    def _facts(p: Provider) -> str:
        return "; ".join(f"[{fact.text}]({fact.source})" for fact in p.limits)

    @staticmethod
    def _settings(p: Provider) -> str:
        found = [f'`rate="{p.rate}"`'] if p.rate else []
        found += [f'`rate="{rate}"` with @{domain}' for domain, rate in p.rates.items()]
        for name in ("max_connections", "messages_per_connection", "max_message_bytes"):
            value = getattr(p, name)
            found += [f"`{name}={value:,}`".replace(",", "_")] if value is not None else []
        return "; ".join(found) or "the usual ones"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class Magic(House):
    """The options of a magic, as its parser knows them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        from smtp_notebook.magics import SendEmailMagics

        parser = getattr(SendEmailMagics, self.arguments[0]).parser
        rows = [(self._names(action), action.help or "") for action in parser._actions]  # noqa: SLF001 - argparse has no public list
        return [self.table(("Option", "What it does"), rows, (40, 60))]

    @staticmethod
    def _names(action: Any) -> str:
        words = [str(c) for c in action.choices or ()]
        value = (
            "" if action.nargs == 0 else "|".join(words) or action.metavar or action.dest.strip("_").upper()
        )
        if not action.option_strings:
            return f"`{value}`"
        names = ", ".join(f"`{n}`" for n in sorted(action.option_strings, key=len, reverse=True))
        return f"{names} `{value}`" if value else names


# ------------------------------------------------------------------------------------------------ links


def known_target(text: str, inside: str = "") -> str:
    """Return the public name that a piece of code type means, such as ``smtp_notebook.send``, or ""."""
    match = re.fullmatch(r"@?(?:smtp_notebook\.)?([A-Za-z_]\w*)(\.[a-z_]\w*)?(?:\(.*\))?", text, re.DOTALL)
    if not match:
        return ""
    name, attribute = match[1], (match[2] or "").removeprefix(".")
    if name in smtp_notebook.__all__ and not name.endswith("load_ipython_extension"):
        # A constructor's call is a link to the class, one of a method to the method.
        owner = getattr(smtp_notebook, name)
        if attribute and (attribute.startswith("_") or not hasattr(owner, attribute)):
            return ""
        return f"{PACKAGE}.{name}" + (f".{attribute}" if attribute else "")
    if inside and not attribute and hasattr(getattr(smtp_notebook, inside, None), name):
        return f"{PACKAGE}.{inside}.{name}"
    return ""


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Turn names in code type into references, and docstrings' single backticks into code type."""
    for label in doctree.findall(nodes.field_name):
        if label.astext() == "Variables":
            label[0] = nodes.Text("Attributes")
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.literal | nodes.title_reference))):
        text = node.astext()
        literal = node if isinstance(node, nodes.literal) else nodes.literal("", text)
        target = "" if _is_fixed(node) else known_target(text, _class_around(node))
        if target:
            options = {"refdomain": "py", "reftype": "obj", "reftarget": target, "house": True}
            reference = addnodes.pending_xref("", refdoc=app.env.docname, **options)
            reference += literal.deepcopy()
            node.replace_self(reference)
        elif literal is not node:
            node.replace_self(literal)


def _is_fixed(node: nodes.Node) -> bool:
    """Tell whether a piece of code type stays as it is: in a title, in a link, or where it is defined."""
    fixed = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature, nodes.rubric)
    parent = node.parent
    while parent is not None:
        if isinstance(parent, fixed):
            return True
        parent = parent.parent
    return False


def _class_around(node: nodes.Node) -> str:
    """Return the class whose description a node stands in, or ""."""
    while node is not None:
        if isinstance(node, addnodes.desc) and node.children:
            found = node.children[0].get("class") or node.children[0].get("fullname", "")
            return str(found).rpartition(".")[2]
        node = node.parent
    return ""


#: What annotations name and no page describes: other packages, and names inside our own modules.
_ELSEWHERE = re.compile(
    r"(?:smtp_notebook\.[a-z_]+\..+|(?:collections|concurrent|contextlib|datetime|email|functools|pandas|pathlib|ssl|typing|pd|dt)\..+"
    r"|Any|Callable|Iterable|Mapping|Sequence|Literal|None|Self|Path|Executor|Exception|[a-z]+)"
)


def resolve(app: Sphinx, env: Any, node: addnodes.pending_xref, shown: nodes.TextElement) -> Any:
    """Lead annotations to the public name of what they mean; let what is documented elsewhere be text."""
    if node.get("refdomain") != "py":
        return None
    target = str(node.get("reftarget"))
    public = target.rpartition(".")[2]
    if target.startswith(f"{PACKAGE}.") and public in smtp_notebook.__all__ and target.count(".") > 1:
        domain = env.get_domain("py")
        found = domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{PACKAGE}.{public}", node, shown
        )
        if found is not None:
            return found
    if node.get("house") or (node.get("reftype") != "obj" and _ELSEWHERE.fullmatch(target)):
        return shown
    return None


def prepare(_app: Sphinx, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Make a docstring ready for napoleon, and take out what a page shows as a table."""
    if obj is Connection:
        del lines[lines.index("Attributes:") :]
    if what in {"attribute", "property"}:
        # Napoleon would take what stands before a colon for a type; of an empty comment it makes nothing.
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    for name, directive in {
        "states": States,
        "statuses": Statuses,
        "fields": Fields,
        "settings": Settings,
        "logins": Logins,
        "limits": Limits,
        "magic": Magic,
    }.items():
        app.add_directive(name, directive)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", prepare, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
