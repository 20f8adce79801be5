"""A canary is planted by every way in; then everything that can be shown, kept or raised is searched for it.

What is promised of local variables: a traceback that shows them (``%xmode Verbose``, ``capture_locals``) shows no
password that came by one of the safe ways. What somebody typed into a call is an argument of that call, and such a
traceback shows it as it shows the cell itself.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import html
import json
import logging
import os
import pickle
import pprint
import traceback
import warnings
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import keyring
import nbformat
import pandas as pd
import pytest
import trustme
from drawer import Drawer
from ipywidgets import Widget
from jupyter_client.manager import start_new_kernel
from keyring.backends import null
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from scripted import DROP, STALL, Server, server_context

from smtp_notebook import (
    Connection,
    DeliveryError,
    Journal,
    MailError,
    PracticeOrg,
    PreflightError,
    SalesforceLogin,
    SecretError,
    SettingsError,
    connect,
    email_form,
    mail_merge,
    salesforce,
    send,
)
from smtp_notebook.connection import current, saved
from smtp_notebook.practice import Answer
from smtp_notebook.servers import find_server

#: With signs that a URL, JSON, a repr and base64 each write in their own way.
CANARY = "c@nary/7f3a: \"quoted\" 'é' %41?"
PLAIN_CANARY = "canary-7f3a-plain"


def forms(canary, user="ann"):
    """Return the canary in every way in which it could stand somewhere."""
    coded = [base64.b64encode(t.encode()).decode().rstrip("=") for t in (canary, f"\0{user}\0{canary}")]
    written = [json.dumps(canary)[1:-1], json.dumps(canary, ensure_ascii=False)[1:-1], repr(canary)[1:-1]]
    return {canary, quote(canary), quote(canary, safe=""), quote_plus(canary), *written, *coded}


def assert_hidden(text, canary=CANARY):
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    for form in forms(canary):
        place = text.find(form)
        assert place < 0, f"…{text[max(0, place - 200) : place]}<here>"


def shown(thing):
    """Return everything that a person could see of an object, or keep of it."""
    found = [repr(thing), str(thing), f"{thing}", pprint.pformat(thing)]
    views = ("_repr_mimebundle_", "_repr_html_", "_render_traceback_")
    found += [repr(getattr(thing, view)()) for view in views if hasattr(thing, view)]
    if isinstance(thing, BaseException):
        for with_locals in (False, True):
            made = traceback.TracebackException.from_exception(thing, capture_locals=with_locals)
            found.append("".join(made.format()))
        found.append(repr([thing.args, vars(thing)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            try:
                found.append(repr(copied(thing)))
            except (TypeError, AttributeError, pickle.PicklingError, RecursionError):
                continue  # what cannot be copied leaks nothing that way
    return "\n".join(found)


def shown_by_us(error):
    """Return what an error says, and the local variables of this package's frames in its traceback."""
    made = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [repr(f.locals) for f in made.stack if f"{os.sep}smtp_notebook{os.sep}" in f.filename]
    assert ours
    return [str(error), repr(error), *ours]


# ---------------------------------------------------------------------------------------- the ways in


@contextmanager
def environment(url, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", CANARY)
    yield Connection.from_url(url)


@contextmanager
def environment_url(url, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_URL", url.replace("ann@", f"ann:{quote(CANARY, safe='')}@"))
    yield find_server().connection


@contextmanager
def from_keyring(url, monkeypatch):
    before, drawer = keyring.get_keyring(), Drawer()
    keyring.set_keyring(drawer)
    try:
        Connection.from_url(url, password=lambda: CANARY).save("work")
        assert list(drawer.kept.values()) == [CANARY]
        yield connect("work")
    finally:
        keyring.set_keyring(before)


@contextmanager
def function(url, monkeypatch):
    yield Connection.from_url(url, password=lambda: CANARY)


@contextmanager
def form(url, monkeypatch):
    """What the form's own question hears; a click then sends by this connection."""
    kept = []
    made = email_form(to="ann@example.com", from_="me@example.com", body="hi", via=url)
    made.with_secret(Connection.from_url(url), kept.append)
    made.secret._handle_custom_msg({"type": "secret", "text": CANARY}, [])
    yield kept[0]
    made.close()


#: How a password comes in. Each is given a URL with a user, and gives the Connection that knows it.
WAYS = {
    "environment": environment,
    "environment's URL": environment_url,
    "keyring": from_keyring,
    "function": function,
    "form": form,
}


# ------------------------------------------------------------------------------------ what is provoked


def mail(via, **more):
    return send(to="bob@example.com", subject="s", body="b", from_="me@example.com", via=via, **more)


def merge(via, template="Dear {{ Name }}", **more):
    frame = pd.DataFrame({"Email": ["bob@example.com", "eve@example.com"], "Name": ["Bob", "Eve"]})
    return mail_merge(
        frame, template, subject="s", from_="me@example.com", via=via, campaign="c", progress=False, **more
    )


def raised(call, *args, **more):
    """Return what a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, it shows nothing
        call(*args, **more)
    return caught.value


def elsewhere(pickled):
    """Return what a copy of a Connection raises where its password is not to be had."""
    with pytest.MonkeyPatch.context() as patched:
        for name in list(os.environ):
            if name.startswith("SMTP_NOTEBOOK"):
                patched.delenv(name)
        before = keyring.get_keyring()
        keyring.set_keyring(null.Keyring())
        try:
            return raised(pickle.loads(pickled).with_().secret.reveal)
        finally:
            keyring.set_keyring(before)


def crash(outcome):
    msg = "the callback crashed"
    raise RuntimeError(msg)


def echoes(text):
    return {"auth": f"535 5.7.8 you said AUTH PLAIN {text}"}


def said(canary, user="ann"):
    return base64.b64encode(f"\0{user}\0{canary}".encode()).decode()


RIGHT = {"login": ("ann", CANARY)}
#: What the server is like, and what is then done; everything that comes of it is searched.
PROVOKED = {
    "sent": (RIGHT, lambda via: [mail(via), merge(via)]),
    "wrong password": ({"login": ("ann", "another")}, lambda via: [raised(mail, via), merge(via)]),
    "echoed login": (
        {"login": ("ann", "x"), "script": echoes(said(CANARY))},
        lambda via: [raised(mail, via), merge(via)],
    ),
    "echoed password": (
        {"login": ("ann", "x"), "script": {"auth": f"454 {CANARY} {quote(CANARY)} {base64.b64encode(CANARY.encode()).decode()}"}},
        lambda via: [raised(mail, via)],
    ),
    "echoed on several lines": (
        {"login": ("ann", "x"), "script": {"auth": f"535-5.7.8 AUTH\r\n535 5.7.8 {said(CANARY)}"}},
        lambda via: [raised(mail, via)],
    ),
    "echoed to a mail": (RIGHT | {"script": {"mail": f"550 5.7.1 {CANARY} {said(CANARY)}"}}, lambda via: [raised(mail, via), merge(via)]),
    "echoed to a recipient": (RIGHT | {"script": {"rcpt": f"550 5.1.1 {said(CANARY)}"}}, lambda via: [raised(mail, via), merge(via)]),
    "echoed as garbage": (RIGHT | {"script": {"dot": f"{CANARY}"}}, lambda via: [raised(mail, via)]),
    "echoed and closed": (RIGHT | {"script": {"data": f"421 {CANARY}" + DROP}}, lambda via: [raised(mail, via)]),
    "no login offered": ({}, lambda via: [raised(mail, via)]),
    "closed at the login": ({"login": ("ann", "x"), "script": {"auth": DROP}}, lambda via: [raised(mail, via)]),
    "timeout": (
        {"login": ("ann", "x"), "script": {"auth": STALL}},
        lambda via: [raised(mail, via.with_(timeout=0.2, attempts=1))],
    ),
    "nobody there": (RIGHT, lambda via: [raised(mail, via.with_(port=1, attempts=1))]),
    "callback crashes": (RIGHT, lambda via: [raised(merge, via, on_outcome=crash)]),
    "preflight": (RIGHT, lambda via: [raised(merge, via, template="{{ Nothing }}")]),
    "function crashes": (RIGHT, lambda via: [raised(merge, via, template="{{ f() }}", values={"f": lambda: 1 / 0})]),
    "settings": (RIGHT, lambda via: [raised(via.with_, timeout=-1), raised(via.with_, nonsense=1), raised(via.save, "gmail")]),
    "no copy knows it": (RIGHT, lambda via: [elsewhere(pickle.dumps(via))]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_no_error_output_log_or_file_has_a_password_whichever_way_it_came(
    way, monkeypatch, tmp_path, capsys, caplog
):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path / "config"))
    caplog.set_level(logging.DEBUG)
    for name in ("asyncio", "aiosmtplib", "smtp_notebook", "keyring", "traitlets"):
        caplog.set_level(logging.DEBUG, logger=name)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number, (kind, (settings, provoke)) in enumerate(PROVOKED.items()):
            monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(tmp_path / f"journal-{number}.sqlite3"))
            with (
                Server(offers=("PIPELINING",), **settings) as server,
                WAYS[way](server.url(user="ann"), monkeypatch) as via,
            ):
                assert via.resolve_secret() == CANARY
                for thing in (via, via.secret, find_server(via), *provoke(via)):
                    assert_hidden(shown(thing))
                if kind == "sent":
                    assert len(server.log.mails) == 3
                    assert not any(CANARY.encode() in m.content for m in server.log.mails)
    output = capsys.readouterr()
    seen = [output.out, output.err, caplog.text, *(str(w.message) for w in warned)]
    seen += [repr(record.__dict__) for record in caplog.records]
    seen.append(json.dumps(Widget.get_manager_state(), default=str))
    seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in seen:
        assert_hidden(text)
    assert any(path.suffix == ".sqlite3" for path in tmp_path.rglob("*"))


TOKEN = "canary-7f3a-token"
BEARER = base64.b64encode(f"user=ann\1auth=Bearer {TOKEN}\1\1".encode()).decode()
#: As `PROVOKED`, for an access token.
PROVOKED_WITH_A_TOKEN = {
    "sent": ({}, lambda via: [mail(via), merge(via)]),
    "refused": ({"tokens": lambda *_: False}, lambda via: [raised(mail, via), merge(via)]),
    "echoed login": ({"script": {"auth": f"535 5.7.8 {BEARER} {TOKEN}"}}, lambda via: [raised(mail, via), merge(via)]),
    "echoed to a mail": ({"script": {"mail": f"550 5.7.1 {TOKEN} {BEARER}"}}, lambda via: [raised(mail, via)]),
    "echoed as garbage": ({"script": {"dot": TOKEN}}, lambda via: [raised(mail, via)]),
    "echoed and closed": ({"script": {"data": f"421 {BEARER}" + DROP}}, lambda via: [raised(mail, via)]),
    "closed at the login": ({"script": {"auth": DROP}}, lambda via: [raised(mail, via)]),
    "callback crashes": ({}, lambda via: [raised(merge, via, on_outcome=crash)]),
    "settings": ({}, lambda via: [raised(via.with_, timeout=-1), raised(via.save, "work")]),
}  # fmt: skip


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_no_error_output_log_or_file_has_an_access_token(mechanism, monkeypatch, tmp_path, capsys, caplog):
    for name in ("asyncio", "aiosmtplib", "smtp_notebook", "keyring", "traitlets"):
        caplog.set_level(logging.DEBUG, logger=name)
    hidden = functools.partial(assert_hidden, canary=TOKEN)
    for number, (kind, (settings, provoke)) in enumerate(PROVOKED_WITH_A_TOKEN.items()):
        monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(tmp_path / f"journal-{number}.sqlite3"))
        known = {"tokens": lambda _, token: token == TOKEN, "mechanisms": mechanism} | settings
        with Server(offers=("PIPELINING",), **known) as server:
            via = Connection.from_url(server.url(user="ann"), oauth=lambda: TOKEN)
            for thing in (via, via.oauth, find_server(via), *provoke(via)):
                hidden(shown(thing))
            if kind == "sent":
                assert len(server.log.mails) == 3
                assert set(server.log.tokens) == {TOKEN}
    output = capsys.readouterr()
    seen = [output.out, output.err, caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    seen.append(json.dumps(Widget.get_manager_state(), default=str))
    seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in seen:
        hidden(text)
        assert BEARER.rstrip("=") not in (text if isinstance(text, str) else text.decode("utf-8", "replace"))


def test_no_tls_failure_has_it():
    authority = trustme.CA()
    for settings, scheme in (
        ({"starttls": server_context(authority, "other.example.com")}, "smtp"),
        ({"tls": server_context(authority, "127.0.0.1")}, "smtps"),
        ({}, "smtp"),
    ):
        with Server(login=("ann", CANARY), **settings) as server:
            via = Connection.from_url(server.url(scheme, user="ann"), password=lambda: CANARY)
            assert_hidden(shown(raised(mail, via)))
            assert not any(c.startswith("AUTH") for c in server.log.commands)


def test_a_form_whose_callback_crashes_keeps_the_password_out_of_every_frame():
    made = email_form(to="ann@example.com", via="smtp+plain://ann@127.0.0.1:1")

    def then(_connection):
        msg = "crash"
        raise RuntimeError(msg)

    made.with_secret(Connection.from_url("smtp+plain://ann@127.0.0.1:1"), then)
    content = {"type": "secret", "text": CANARY}
    assert_hidden(shown(raised(made.secret.heard, content, [])))
    assert "text" not in content
    assert_hidden(json.dumps(Widget.get_manager_state(), default=str) + repr(vars(made.secret)))
    made.close()


@pytest.mark.parametrize("value", [CANARY.encode(), [CANARY], ""])
def test_a_function_that_gives_no_text_shows_nothing_of_what_it_gave(value):
    error = raised(connect, "smtp://ann@mail.example.com", password=lambda: value)
    assert isinstance(error, SecretError)
    assert_hidden("\n".join(text for text in shown_by_us(error) if "shown_by_us" not in text))


def test_a_password_of_a_code_does_not_change_what_a_reply_means():
    with Server(login=("ann", "5.1.1"), script={"rcpt": "550 5.1.1 nobody 5.1.1"}) as server:
        error = raised(mail, Connection.from_url(server.url(user="ann"), password=lambda: "5.1.1"))
    assert (error.outcome.enhanced, error.outcome.status) == ("5.1.1", 404)


# ------------------------------------------------------------------------------- a Salesforce org's


def echo(asked):
    """Answer with all that was asked, as a careless server or a proxy on the way does."""
    told = html.escape(f"{asked.body.decode('utf-8', 'replace')} {dict(asked.headers)}")
    if "Soap" in asked.path:
        fault = f"<sf:exceptionCode>INVALID_LOGIN</sf:exceptionCode><sf:exceptionMessage>{told}</sf:exceptionMessage>"
        return Answer(500, f'<a xmlns:sf="urn:x">{fault}</a>'.encode())
    if "oauth2" in asked.path:
        return Answer(400, {"error": "invalid_grant", "error_description": html.unescape(told)})
    return Answer(400, [{"errorCode": "MALFORMED_QUERY", "message": html.unescape(told)}])


def echo_as_a_page(asked):
    return Answer(500, f"<html>{asked.body.decode()} {dict(asked.headers)}</html>".encode())


#: How an org's secrets come in: each gives a login of which one secret is the canary.
ORG_WAYS = {
    "password": {"user": "ann@example.com", "password": lambda: CANARY},
    "security token": {"user": "ann@example.com", "password": lambda: "x", "security_token": lambda: CANARY},
    "consumer secret": {"consumer_key": "practice-app", "consumer_secret": lambda: CANARY},
    "session": {"session": lambda: PLAIN_CANARY},
}  # fmt: skip
ORG_FAULTS = {
    "refused": None,
    "echoed": echo,
    "echoed as a page": echo_as_a_page,
    "redirected": lambda _: Answer(302, b"", {"Location": f"https://x.example.org/?{CANARY!r}"}),
    "ended early": lambda _: Answer(200, b"{", {"Content-Length": "99"}),
}


@pytest.mark.parametrize("way", ORG_WAYS)
def test_no_error_output_log_or_file_has_an_orgs_secret(way, tmp_path, capsys, caplog, drawer, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    for name in ("urllib3", "requests", "simple_salesforce", "smtp_notebook", "keyring"):
        caplog.set_level(logging.DEBUG, logger=name)
    with PracticeOrg() as org:
        login = SalesforceLogin(org.url, ca_file=org.ca_file, **ORG_WAYS[way])
        if way != "session":
            assert login.save("acme") == login.saved("acme")
            assert CANARY in drawer.kept.values()
        gone = dataclasses.replace(login, url="https://127.0.0.1:1")
        untrusted = dataclasses.replace(login, ca_file="")
        for via, fault in (*((login, f) for f in ORG_FAULTS.values()), (gone, None), (untrusted, None)):
            org.hook = fault
            source = salesforce("Lead", ["Email"], org=via)
            source.prepare()
            error = raised(source.read, source.begin("all").cursor)
            assert isinstance(error, MailError)
            for thing in (via, source, source._org, error):
                for canary in (CANARY, PLAIN_CANARY):
                    assert_hidden(shown(thing), canary)
            copied = pickle.loads(pickle.dumps(source._org)).login
            assert isinstance(raised(copied.resolve), SecretError)
    output = capsys.readouterr()
    seen = [output.out, output.err, caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in seen:
        assert_hidden(text)
        assert_hidden(text, PLAIN_CANARY)


def test_the_id_of_a_session_is_a_secret_too():
    with PracticeOrg() as org:
        source = salesforce("Lead", ["Email"], org=org)
        source.prepare()
        source.read(source.begin("all").cursor)
        (session,) = org._sessions
        org.hook = echo
        error = raised(source.read, source.begin("all").cursor)
        assert "MALFORMED_QUERY" in str(error)
        for thing in (source, source._org, error):
            assert_hidden(shown(thing), session)


@pytest.mark.parametrize(
    "type_it",
    [
        lambda c: SalesforceLogin(f"salesforce://ann:{c}@acme.my.salesforce.com"),
        lambda c: SalesforceLogin(f"https://ann:{c}/x@acme.my.salesforce.com"),
        lambda c: SalesforceLogin("acme.my.salesforce.com", user="ann", password=c),
        lambda c: SalesforceLogin("acme.my.salesforce.com", user="ann", security_token=c),
        lambda c: SalesforceLogin("acme.my.salesforce.com", consumer_key="k", consumer_secret=c),
        lambda c: salesforce("Lead", org=f"ann:{c}@acme.my.salesforce.com"),
        lambda c: salesforce("Lead", org=f"salesforce://ann:{c}@acme.my.salesforce.com"),
    ],
)
def test_an_orgs_secret_that_was_typed_is_refused_with_the_safe_ways(type_it):
    for canary in (PLAIN_CANARY, CANARY):
        error = raised(type_it, canary)
        assert isinstance(error, SettingsError), error
        for word in ("SMTP_NOTEBOOK_SALESFORCE_", "keyring", "=lambda", "Change that password"):
            assert word in str(error)
        plain = "".join(traceback.TracebackException.from_exception(error).format())
        for text in (str(error), repr(error), *error._render_traceback_(), plain, repr(vars(error))):
            assert_hidden(text, canary)
            assert "7f3a" not in text, "not a part of it either"


# ----------------------------------------------------------------------------------- what was typed


@pytest.mark.parametrize(
    "type_it",
    [
        lambda c: connect(f"smtp://ann:{c}@mail.example.com"),
        lambda c: connect(f"smtp://ann:{quote(c)}@mail.example.com"),
        lambda c: connect(f"smtps://ann:{c}/x@mail.example.com:465"),
        lambda c: connect(f"smtp://ann:{c}#?@mail.example.com"),
        lambda c: connect(f"smtp://ann:a@{c}@mail.example.com"),
        lambda c: connect(f"ann:{c}@mail.example.com"),
        lambda c: saved(f"ann:{c}@mail.example.com"),
        lambda c: connect("smtp://ann@mail.example.com", password=c),
        lambda c: connect("smtp://ann@mail.example.com", password=c.encode()),
        lambda c: connect("smtp://ann@mail.example.com", secret=c),
        lambda c: Connection(host="mail.example.com", port=587, user="ann", secret=c),
        lambda c: Connection.from_url("smtp://mail.example.com").with_(password=c),
        lambda c: mail(f"smtp://ann:{c}@mail.example.com"),
        lambda c: merge(f"smtp://ann:{c}@mail.example.com"),
        lambda c: email_form(via=f"smtp://ann:{c}@mail.example.com"),
    ],
)
def test_a_password_that_was_typed_is_refused_with_the_safe_ways_and_the_advice_to_change_it(type_it):
    before = current()
    for canary in (PLAIN_CANARY, CANARY):
        error = raised(type_it, canary)
        assert isinstance(error, SettingsError), error
        for word in (
            "SMTP_NOTEBOOK_PASSWORD",
            "keyring",
            "password=lambda",
            "Change that password",
            "history",
        ):
            assert word in str(error)
        plain = "".join(traceback.TracebackException.from_exception(error).format())
        for text in (str(error), repr(error), *error._render_traceback_(), plain, repr(vars(error))):
            assert_hidden(text, canary)
            assert "7f3a" not in text, "not a part of it either"
    assert current() is before


@pytest.mark.parametrize(
    "url",
    ["smtp://ann:{}@", "smtp://ann:{}@mail.example.com:x", "ann:{}@mail.example.com", "smtp://ann:{}/@h i"],
)
def test_a_url_of_the_environment_that_is_none_is_refused_without_its_password(url, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_URL", url.format(PLAIN_CANARY))
    error = raised(find_server)
    assert isinstance(error, MailError)
    assert_hidden("\n".join(shown_by_us(error)), PLAIN_CANARY)


# --------------------------------------------------------------------------------- in a live notebook

_PREPARE = """import logging, os, warnings
logging.basicConfig(level=logging.DEBUG, force=True)
warnings.simplefilter("always")
%load_ext smtp_notebook
%xmode Verbose
import pandas as pd
from smtp_notebook import *
frame = pd.DataFrame({{"Email": ["bob@example.com"]}})
via = connect("{url}", sender="me@example.com")"""
_PROVOKE = [
    "via",
    "send(to='bob@example.com', body='hi')",
    "%%send_email --to bob@example.com\nhi",
    "mail_merge(frame, 'hi', campaign='c', progress=False)",
    "mail_merge(frame, '{{ nothing }}', campaign='d', progress=False)",
    "mail_merge(frame, 'hi', campaign='e', progress=False, on_outcome=lambda outcome: 1 / 0)",
    "form = email_form(to='bob@example.com', body='hi'); form",
    "merge_form(frame, 'hi')",
    "connect('{wrong}', sender='me@example.com'); send(to='bob@example.com', body='hi')",
    "send(to='bob@example.com', body='hi', via='{nobody}')",
    "dir(), [repr(value) for value in list(globals().values())]",
    "%history",
    "import gc; [r for r in map(repr, [o for o in gc.get_objects() if 'smtp_notebook' in type(o).__module__])]",
]


def cells(server, wrong):
    user = {"wrong": wrong.url(user="ann"), "nobody": "smtp+plain://ann@127.0.0.1:1"}
    return [
        c if "{{" in c else c.replace("{wrong}", user["wrong"]).replace("{nobody}", user["nobody"])
        for c in _PROVOKE
    ]


@pytest.mark.notebook
def test_a_saved_notebook_that_was_run_with_a_password_in_the_environment_has_it_nowhere(tmp_path):
    with Server(login=("ann", CANARY)) as server, Server(login=("ann", "another")) as wrong:
        sources = [_PREPARE.format(url=server.url(user="ann")), *cells(server, wrong)]
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
        variables = {
            "SMTP_NOTEBOOK_PASSWORD": CANARY,
            "SMTP_NOTEBOOK_JOURNAL": str(tmp_path / "journal.sqlite3"),
            "SMTP_NOTEBOOK_CONFIG": str(tmp_path / "config"),
        }
        client = NotebookClient(book, timeout=60, allow_errors=True, store_widget_state=True)
        client.execute(env={**os.environ, **variables})
        assert len(server.log.mails) == 4
    assert sum(o.output_type == "error" for c in book.cells for o in c.get("outputs", ())) >= 4
    assert "widgets" in book.metadata
    assert_hidden(nbformat.writes(book))
    assert_hidden(HTMLExporter().from_notebook_node(book)[0])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert_hidden(path.read_bytes())


@pytest.mark.notebook
def test_a_password_typed_at_the_prompt_is_in_no_output_and_not_in_the_history(tmp_path, monkeypatch):
    """What was typed into a cell instead stands in that cell alone."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(tmp_path / "journal.sqlite3"))
    typed = "typed-canary-91c2"
    with Server(login=("ann", CANARY)) as server, Server(login=("ann", "another")) as wrong:
        manager, client = start_new_kernel(kernel_name="python3")
        outputs, asked = [], []

        def run(code):
            def answer(message):
                asked.append(message["content"])
                client.input(CANARY)

            client.execute_interactive(
                code, timeout=60, allow_stdin=True, stdin_hook=answer, output_hook=outputs.append
            )

        try:
            run(_PREPARE.format(url=server.url(user="ann")))
            for cell in cells(server, wrong):
                run(cell)
            refused = len(outputs)
            run(f"connect('smtp://ann:{typed}@mail.example.com')")
            run(f"connect('smtp://ann@mail.example.com', password='{typed}')")
            run(f"%smtp smtp://ann:{typed}@mail.example.com")
            run(f"%%send_email --to bob@example.com --password {typed}\nhi")
            run(f"%%send_email --to bob@example.com --pw={typed}\nhi")
            run(f"%%send_email --to bob@example.com --via smtp://ann:{typed}@mail.example.com\nhi")
            refusals = [m for m in outputs[refused:] if m["msg_type"] in {"error", "stream"}]
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    assert len(asked) == 3, "once for each server"
    assert all(a["password"] for a in asked), "the front end shows dots"
    assert len(server.log.mails) == 4
    assert_hidden(json.dumps(outputs, default=str, ensure_ascii=False))
    said = json.dumps([m["content"] for m in refusals], ensure_ascii=False)
    assert said.count("Change that password") >= 6
    assert typed not in said
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for content in files.values():
        assert_hidden(content)
    history = next(content for path, content in files.items() if path.name == "history.sqlite")
    assert typed.encode() in history, "which is why it has to be changed"


def test_a_closed_journal_has_a_repr_for_tracebacks_with_variables(tmp_path):
    journal = Journal(tmp_path / "j.sqlite3")
    journal.close()
    assert "is closed" in repr(journal)


def test_the_errors_that_people_get_are_of_this_kind():
    assert issubclass(DeliveryError, MailError)
    assert issubclass(PreflightError, MailError)
