"""The options that become fields of a mail, in one table: for the magics, and for the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smtp_notebook.bodies import FORMATS
from smtp_notebook.fields import IMPORTANCES

__all__ = ["FLAGS", "Flag", "flags", "given"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One option.

    Attributes:
        field: The field that it becomes.
        names: How it is written.
        help: What it is, in a few words.
        many: Whether it may be repeated.
        choices: The words that it takes; () for any text.
        what: What stands for its value in a synopsis.
    """

    field: str
    names: tuple[str, ...]
    help: str
    many: bool = False
    choices: tuple[str, ...] = ()
    what: str = "TEXT"


FLAGS: Mapping[str, Flag] = {
    flag.field: flag
    for flag in (
        Flag("to", ("--to", "-t"), "recipients, separated by ; or ,", many=True, what="ADDRESS"),
        Flag("cc", ("--cc",), "copies", many=True, what="ADDRESS"),
        Flag("bcc", ("--bcc",), "blind copies", many=True, what="ADDRESS"),
        Flag("from_", ("--from",), "the sender", what="ADDRESS"),
        Flag("reply_to", ("--reply-to",), "where answers go", many=True, what="ADDRESS"),
        Flag("subject", ("--subject", "-s"), "the subject"),
        Flag("format", ("--format", "-f"), "what the text is; Markdown by default", choices=FORMATS),
        Flag("attach", ("--attach", "-a"), "a file; may be repeated", many=True, what="FILE"),
        Flag("inline", ("--inline",), "an image that the HTML shows by cid:", many=True, what="FILE"),
        Flag("importance", ("--importance",), "how urgent it is", choices=IMPORTANCES),
        Flag("preheader", ("--preheader",), "what inboxes show beside the subject"),
        Flag("theme", ("--theme",), "what a Markdown text looks like: a file, or none", what="FILE"),
        Flag(
            "unsubscribe",
            ("--unsubscribe",),
            "where one unsubscribes: https: or mailto:; may be repeated",
            many=True,
            what="URL",
        ),
        Flag(
            "bulk",
            ("--bulk",),
            "whether it is bulk mail; by default if it has a list's headers",
            choices=("yes", "no"),
        ),
        Flag("list_id", ("--list-id",), "the mailing list: news.example.com, or News <news.example.com>"),
        Flag("feedback_id", ("--feedback-id",), "what Gmail counts complaints by: campaign:customer:kind:sender"),
        Flag("postal_address", ("--postal-address",), "the sender's, for the footer"),
    )
}  # fmt: skip


def flags(*fields: str) -> list[Flag]:
    """Return the options of some fields, or of all where none is named, in the order of the table."""
    return [flag for name, flag in FLAGS.items() if not fields or name in fields]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of *options* that are fields of a mail and that somebody gave."""
    found = {name: options.get(name) for name in FLAGS}
    return {name: list(v) if _several(v) else v for name, v in found.items() if v is not None and v != ()}


def _several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)
