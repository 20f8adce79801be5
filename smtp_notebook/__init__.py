"""Send mail from Jupyter notebooks: results as they are shown, and one personal mail per DataFrame row.

A template and a row make a Message; a Message and a Connection make an Outcome; a merge is that, once
per row. Every name below is loaded on first use, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtp_notebook.addresses import Address
    from smtp_notebook.api import amail_merge, asend, connect, mail_merge, preview, send
    from smtp_notebook.books import asend_notebook, send_notebook
    from smtp_notebook.checkup import Checkup
    from smtp_notebook.composer import email_form
    from smtp_notebook.connection import Connection
    from smtp_notebook.event import Event
    from smtp_notebook.journal import Journal
    from smtp_notebook.mailbox import inbox
    from smtp_notebook.merger import merge_form
    from smtp_notebook.message import Attachment, Message
    from smtp_notebook.oauth import GoogleOAuth, MicrosoftOAuth
    from smtp_notebook.org import SalesforceLogin
    from smtp_notebook.outcome import (
        AddressError,
        AttachmentError,
        DeliveryError,
        JournalError,
        MailError,
        MergeRefusedError,
        MessageError,
        OptionError,
        Outcome,
        PreflightError,
        Report,
        SecretError,
        SettingsError,
        SourceError,
        State,
        TemplateError,
    )
    from smtp_notebook.outputs import email_output
    from smtp_notebook.practice import PracticeOrg
    from smtp_notebook.returns import Bounces, read_bounces
    from smtp_notebook.sandbox import Sandbox
    from smtp_notebook.signing import Dkim
    from smtp_notebook.soql import salesforce
    from smtp_notebook.sources import csv_folder, sql
    from smtp_notebook.suppressions import Suppressions, suppress, unsuppress
    from smtp_notebook.template import Template
    from smtp_notebook.triggers import Watch, watch
    from smtp_notebook.variants import Variants
    from smtp_notebook.watchstatus import WatchStatus

_HOMES = {
    "addresses": ("Address",),
    "api": ("amail_merge", "asend", "connect", "mail_merge", "preview", "send"),
    "books": ("asend_notebook", "send_notebook"),
    "checkup": ("Checkup",),
    "composer": ("email_form",),
    "connection": ("Connection",),
    "event": ("Event",),
    "journal": ("Journal",),
    "mailbox": ("inbox",),
    "merger": ("merge_form",),
    "message": ("Attachment", "Message"),
    "oauth": ("GoogleOAuth", "MicrosoftOAuth"),
    "org": ("SalesforceLogin",),
    "outcome": (
        "AddressError",
        "AttachmentError",
        "DeliveryError",
        "JournalError",
        "MailError",
        "MergeRefusedError",
        "MessageError",
        "OptionError",
        "Outcome",
        "PreflightError",
        "Report",
        "SecretError",
        "SettingsError",
        "SourceError",
        "State",
        "TemplateError",
    ),
    "outputs": ("email_output",),
    "practice": ("PracticeOrg",),
    "returns": ("Bounces", "read_bounces"),
    "sandbox": ("Sandbox",),
    "signing": ("Dkim",),
    "soql": ("salesforce",),
    "sources": ("csv_folder", "sql"),
    "suppressions": ("Suppressions", "suppress", "unsuppress"),
    "template": ("Template",),
    "triggers": ("Watch", "watch"),
    "watchstatus": ("WatchStatus",),
    "variants": ("Variants",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Address",
    "AddressError",
    "Attachment",
    "AttachmentError",
    "Bounces",
    "Checkup",
    "Connection",
    "DeliveryError",
    "Dkim",
    "Event",
    "GoogleOAuth",
    "Journal",
    "JournalError",
    "MailError",
    "MergeRefusedError",
    "Message",
    "MessageError",
    "MicrosoftOAuth",
    "OptionError",
    "Outcome",
    "PracticeOrg",
    "PreflightError",
    "Report",
    "SalesforceLogin",
    "Sandbox",
    "SecretError",
    "SettingsError",
    "SourceError",
    "State",
    "Suppressions",
    "Template",
    "TemplateError",
    "Variants",
    "Watch",
    "WatchStatus",
    "amail_merge",
    "asend",
    "asend_notebook",
    "connect",
    "csv_folder",
    "email_form",
    "email_output",
    "inbox",
    "load_ipython_extension",
    "mail_merge",
    "merge_form",
    "preview",
    "read_bounces",
    "salesforce",
    "send",
    "send_notebook",
    "sql",
    "suppress",
    "unload_ipython_extension",
    "unsuppress",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("smtp_notebook")
    home = _HOME_OF.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load_ipython_extension(shell: Any) -> None:
    """Register the magics: ``%load_ext smtp_notebook``."""
    from smtp_notebook.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again."""
    from smtp_notebook.magics import unregister

    unregister(shell)
