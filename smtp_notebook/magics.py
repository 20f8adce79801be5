"""``%%send_email``, ``%send_email``, ``%email_output``, ``%smtp`` and ``%inbox``: thin adapters of the library.

An option is split off first and expanded after, by Jinja2 alone, so no variable's value can become an
option. Backslashes are ordinary characters, for the sake of Windows paths. No option takes a password.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Callable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher
from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from smtp_notebook import api, flags, outputs, servers
from smtp_notebook import connection as connections
from smtp_notebook.message import Message
from smtp_notebook.outcome import DeliveryError, OptionError
from smtp_notebook.sandbox import default_sandbox
from smtp_notebook.template import Template

__all__ = ["SendEmailMagics", "register", "split_options", "unregister"]

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}")
#: What somebody may try who looks for an option that takes a password.
_PASSWORD = re.compile(r"--?(?:pass\w*|pw|pwd|secret|token|api-?key)", re.IGNORECASE)
_CHOICES = {f.names[0]: f.choices for f in flags.flags() if f.choices} | {"--on": outputs.WHEN}


def split_options(line: str) -> list[str]:
    """Split an option line as a shell would, backslashes and ``{{ … }}`` left whole."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\x00{len(kept) - 1}\x00"

    lexer = shlex.shlex(_JINJA.sub(keep, line), posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.escape = ""
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:
        cause = "A quote in the options is opened and not closed."
        raise OptionError(cause, "Close it, or use the other kind of quote around it.") from None
    return [re.sub("\x00([0-9]+)\x00", lambda m: kept[int(m[1])], t) for t in tokens]


def _fields(*names: str) -> Callable[[Any], Any]:
    """Add the options of `flags` to a magic; all of them where none is named."""

    def add(function: Any) -> Any:
        for flag in reversed(flags.flags(*names)):
            more: dict[str, Any] = {"action": "append"} if flag.many else {}
            more |= {"choices": flag.choices} if flag.choices else {}
            function = argument(*flag.names, dest=flag.field, help=flag.help, **more)(function)
        return function

    return add


@magics_class
class SendEmailMagics(Magics):
    """The magics of smtp_notebook; each translates to one call of the library."""

    @magic_arguments()
    @_fields()
    @argument("--attach-root", help="the folder that attached files must be in; the working one by default")
    @argument("--template", help="a template file in place of the cell (line form)")
    @argument("--via", help="a URL or a saved name; by default the notebook's connection")
    @argument("--once", action="store_true", help="skip a mail that went before")
    @argument("--dry-run", action="store_true", help="check everything, send nothing")
    @argument("--preview", "-p", action="store_true", help="show the mail, send nothing")
    @argument("--result", metavar="NAME", help="keep the Outcome under this name")
    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def send_email(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Send the cell as a mail; the notebook's variables fill it.

        The cell is a template: an optional head between --- lines, then the body in Markdown, HTML or
        text. Any object that the notebook can show can stand in {{ }}. Options win over the head.

        Examples::

            %%send_email --to ann@example.com --subject "Results of {{ day }}"
            Dear Ann, **{{ count }}** rows are in:

            {{ frame.head() }}
        """
        options = _parsed(line, self.send_email.parser, "%%send_email")
        message = self._message(options, cell, {**self._names(), **(local_ns or {})})
        if options.preview:
            return api.looked_at(message, connections.current())
        try:
            outcome = api.send(message, via=options.via, once=options.once, dry_run=options.dry_run)
        except DeliveryError as error:
            self._keep(options.result, error.outcome)
            raise
        self._keep(options.result, outcome)
        return outcome

    @staticmethod
    def _message(options: argparse.Namespace, cell: str | None, names: dict[str, Any]) -> Message:
        if (cell is None) == (options.template is None):
            cause = (
                "The mail's text comes from the cell below %%send_email, or from --template FILE in a line."
            )
            raise OptionError(cause, "Give one of the two.")
        given = flags.given(vars(options))
        source: Any = cell
        if options.template is not None:
            from pathlib import Path

            source = Path(options.template)
        template = Template(source, attach_root=options.attach_root, **given)
        return template.fill(None, values=names)

    def _names(self) -> dict[str, Any]:
        """Return the notebook's variables."""
        assert self.shell is not None
        names: dict[str, Any] = self.shell.user_ns
        return names

    def _keep(self, name: str | None, outcome: Any) -> None:
        if name:
            self._names()[name] = outcome

    @magic_arguments()
    @argument("switch", nargs="?", choices=("off",), help="off: mail nothing of this cell after all")
    @_fields("to", "cc", "bcc", "from_", "reply_to", "subject", "attach", "importance")
    @argument("--attach-root", help="the folder that attached files must be in; the working one by default")
    @argument("--via", help="a URL or a saved name; by default the notebook's connection")
    @argument("--min-duration", default="0s", help="mail slow cells alone: 90s, 10m, 1h30m")
    @argument("--on", choices=outputs.WHEN, default="always", help="always, error or success")
    @no_var_expand
    @line_magic
    def email_output(self, line: str) -> None:
        """Mail what this cell prints and shows from here on, or its traceback, when it is done.

        It stands on the cell's first line, or wherever the mail shall begin. {{ }} in an option is filled
        at the end, with the notebook's variables; a file is read then.

        Examples::

            %email_output --to ann@example.com --min-duration 10m --attach results.csv
            train()
        """
        options = _parsed(line, self.email_output.parser, "%email_output")
        if options.switch:
            outputs.disarm(self.shell)
            return
        given = flags.given(vars(options))

        def fill(**fields: Any) -> Message:
            template = Template("", attach_root=options.attach_root, **fields)
            return template.fill(None, values=self._names())

        # What can be known to be wrong is said now, not after the work.
        Template("", **given)
        checked = {k: v for k, v in given.items() if k != "attach" and "{" not in str(v)}
        Template("", **checked).fill(None)
        settings = outputs.Settings(
            fields=given, fill=fill, via=options.via, on=options.on, min_duration=options.min_duration
        )
        outputs.arm(self.shell, settings)

    @line_magic
    def smtp(self, line: str) -> Any:
        """Name the notebook's server (a URL, a saved name, sandbox), or show which one is in use."""
        name = line.strip().strip("'\"")
        if name:
            return api.connect(name)
        connection = connections.current()
        return connection if connection is not None else servers.find_server().connection

    @line_magic
    def inbox(self, line: str) -> None:
        """Show what the sandbox received, newest first."""
        if line.strip():
            cause = f"%inbox takes no arguments, not {line.strip()!r}."
            raise OptionError(cause, "sandbox.messages has the mails as objects.")
        display(default_sandbox())


def _parsed(line: str, parser: Any, magic: str) -> argparse.Namespace:
    """Return a magic's options; a mistake is one sentence."""
    tokens = split_options(line)
    for token in tokens:
        name = token.partition("=")[0]
        if _PASSWORD.fullmatch(name):
            del line, tokens, token
            raise connections.typed_password(f"{name} does not exist: a password would stand in the cell")
    try:
        parsed: argparse.Namespace = parser.parse_args(tokens)
    except UsageError as error:
        raise OptionError(_usage(str(error), tokens, _known_options(parser), magic)) from None
    return parsed


def _known_options(parser: Any) -> list[str]:
    return sorted(parser._option_string_actions)  # noqa: SLF001 - argparse has no public list of its options


def _usage(error: str, tokens: list[str], known: list[str], magic: str) -> str:
    """Return argparse's complaint in one sentence, with the nearest option."""
    text = error.strip().splitlines()[-1].strip().rstrip(".")
    for token in tokens:
        name = token.partition("=")[0]
        if name.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            return f"There is no option {name}." + (f" Did you mean {near[0]}?" if near else "")
    return f"{text}. See {magic}? for the options."


@context_matcher()
def complete_options(context: CompletionContext) -> dict[str, Any]:
    """Complete the options of send_email and email_output, and the words that some of them take."""
    line = context.full_text.split("\n")[context.cursor_line]
    found = re.match(r"(?:%{1,2}(?=send_email\s)|%(?=email_output\s))(\w+)", line)
    if not found or (context.cursor_line != 0 and line.startswith("%%")):
        return {"completions": [], "suppress": False}
    before = line[: context.cursor_position].split()
    previous = before[-2] if context.token and len(before) > 1 else (before[-1] if before else "")
    words: tuple[str, ...] = tuple(_CHOICES.get(previous, ()))
    if context.token.startswith("-"):
        parser = getattr(SendEmailMagics, found[1]).parser
        words = tuple(o for o in _known_options(parser) if o.startswith("--"))
    fitting = [w for w in words if w.startswith(context.token)]
    return {
        "completions": [SimpleCompletion(w, type="magic option") for w in fitting],
        "suppress": bool(fitting),
        "matched_fragment": context.token,
    }


def register(shell: Any) -> None:
    """Add the magics and the completion of their options."""
    shell.register_magics(SendEmailMagics)
    matchers = shell.Completer.custom_matchers
    if complete_options not in matchers:
        matchers.append(complete_options)


def unregister(shell: Any) -> None:
    """Take both away again, and mail nothing of the running cell."""
    outputs.disarm(shell)
    if complete_options in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(complete_options)
    shell.magics_manager.magics["cell"].pop("send_email", None)
    for name in ("send_email", "email_output", "smtp", "inbox"):
        shell.magics_manager.magics["line"].pop(name, None)
