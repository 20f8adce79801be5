"""Connections: URLs, refusals, saved settings, and a secret that shows itself nowhere."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import traceback

import pytest

from smtp_notebook import Connection, OptionError, SecretError, SettingsError, connect
from smtp_notebook.connection import RESERVED, current, forget, from_environment, saved, saved_names

PASSWORD = "correct-horse-battery"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("url", "security", "host", "port", "user"),
    [
        ("smtp://mail.example.com", "starttls", "mail.example.com", 587, ""),
        ("smtps://ann@mail.example.com", "tls", "mail.example.com", 465, "ann"),
        ("smtp+plain://127.0.0.1:2525", "plain", "127.0.0.1", 2525, ""),
        (
            "smtp://ann%40example.com@mail.example.com:25",
            "starttls",
            "mail.example.com",
            25,
            "ann@example.com",
        ),
        ("smtp://ann@example.com@mail.example.com", "starttls", "mail.example.com", 587, "ann@example.com"),
        ("smtp+plain://[::1]:26", "plain", "::1", 26, ""),
        ("SMTP://mail.example.com/", "starttls", "mail.example.com", 587, ""),
    ],
)
def test_a_url_says_everything(url, security, host, port, user):
    found = Connection.from_url(url)
    assert (found.security, found.host, found.port, found.user) == (security, host, port, user)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com",
        "http://mail.example.com",
        "smtp://",
        "smtp://:25",
        "smtp://mail.example.com:99999",
        "smtp://mail.example.com:x",
        "smtp://mail.example.com/inbox",
        "smtp://mail.example.com?x=1",
        "smtp://mail example.com",
        "smtp://a%0d%0ab@mail.example.com",
        "smtp+plain://ann@mail.example.com",
    ],
)
def test_a_bad_url_is_refused_in_one_sentence(url):
    with pytest.raises(SettingsError) as caught:
        Connection.from_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": "5"},
        {"max_connections": 0},
        {"attempts": 1.5},
        {"sender": "nobody"},
        {"redirect_to": "a@"},
        {"security": "none"},
        {"rate": "30"},
        {"rate": 30},
        {"rate": "30/fortnight"},
    ],
)
def test_a_bad_setting_is_refused(settings):
    with pytest.raises(SettingsError):
        Connection.from_url("smtp://mail.example.com", **settings)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(OptionError, match="'timeout'"):
        Connection.from_url("smtp://mail.example.com", timeot=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: connect(f"smtp://ann:{PASSWORD}@mail.example.com"),
        lambda: connect(f"ann:{PASSWORD}@mail.example.com"),
        lambda: connect("smtp://ann@mail.example.com", password=PASSWORD),
        lambda: Connection.from_url("smtp://ann@mail.example.com").with_(password=PASSWORD),
    ],
)
def test_a_password_in_clear_is_refused_without_repeating_it(make):
    with pytest.raises(SettingsError, match="SMTP_NOTEBOOK_PASSWORD") as caught:
        make()
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in "".join(caught.value._render_traceback_())
    assert current() is None


def test_the_secret_is_nowhere_to_be_seen(caplog, folder, drawer):
    caplog.set_level(logging.DEBUG)
    found = connect("smtp://ann@mail.example.com", password=lambda: PASSWORD)
    assert found.resolve_secret() == PASSWORD
    found.save("work")
    places = [
        repr(found),
        str(found),
        f"{found}",
        repr(found.secret),
        str(found.secret),
        repr(pickle.dumps(copy.copy(found.with_(secret=None)))),
        repr(pickle.loads(pickle.dumps(found.secret))),
        repr(copy.deepcopy(found.secret)),
        found.url,
        caplog.text,
        (folder / "connections.json").read_text(),
    ]
    assert not [p for p in places if PASSWORD in p]
    with pytest.raises(SecretError):
        pickle.loads(pickle.dumps(found.secret)).reveal()
    assert list(drawer.kept.values()) == [PASSWORD]


def test_an_error_on_the_way_shows_no_secret_even_with_the_locals():
    found = Connection.from_url("smtp://ann@mail.example.com", password=lambda: PASSWORD)
    found.resolve_secret()
    try:
        found.with_(timeout=-1)
    except SettingsError as error:
        text = io.StringIO()
        text.write("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
        assert PASSWORD not in text.getvalue()


def test_the_environment_and_then_the_keyring_give_the_password(monkeypatch, drawer):
    drawer.kept["smtp-notebook", "ann@mail.example.com:587"] = "from the keyring"
    assert Connection.from_url("smtp://ann@mail.example.com").resolve_secret() == "from the keyring"
    monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", "from the environment")
    assert Connection.from_url("smtp://ann@mail.example.com").resolve_secret() == "from the environment"


def test_without_any_way_to_a_password_the_error_names_them_all():
    with pytest.raises(SecretError) as caught:
        connect("smtp://ann@mail.example.com")
    for way in ("SMTP_NOTEBOOK_PASSWORD", "keyring", "password="):
        assert way in str(caught.value)
    assert current() is None


def test_a_saved_connection_comes_back_without_its_secret_in_the_file(folder, drawer):
    made = Connection.from_url(
        "smtp://ann@mail.example.com",
        sender="ann@example.com",
        allow=["example.com"],
        rate="30 per minute, 2000/day",
        password=lambda: PASSWORD,
    )
    made.save("work")
    assert saved_names() == ["work"]
    found = connect("work")
    assert found == made.with_(name="work")
    assert found.resolve_secret() == PASSWORD
    assert (folder / "connections.json").stat().st_mode & 0o077 == 0
    assert "secret" not in json.loads((folder / "connections.json").read_text())["work"]
    forget("work")
    assert (saved_names(), drawer.kept) == ([], {})


def test_nothing_is_saved_when_the_password_cannot_be_kept():
    made = Connection.from_url("smtp://ann@mail.example.com", password=lambda: PASSWORD)
    with pytest.raises(SecretError, match="keyring"):
        made.save("work")
    assert saved_names() == []


@pytest.mark.parametrize("name", ["sandbox", "Gmail", "../x", "", "a b", "x" * 80])
def test_a_name_may_not_hide_a_provider_or_leave_the_folder(name):
    with pytest.raises(SettingsError):
        Connection.from_url("smtp://mail.example.com").save(name)
    assert "gmail" in RESERVED


def test_an_unknown_name_lists_the_saved_ones():
    Connection.from_url("smtp://mail.example.com").save("work")
    with pytest.raises(SettingsError, match="'work'"):
        saved("wrok")


def test_a_broken_file_is_named(folder):
    (folder / "connections.json").write_text("{")
    with pytest.raises(SettingsError, match="connections.json"):
        saved_names()


def test_the_environments_url_may_hold_a_password():
    found = from_environment({"SMTP_NOTEBOOK_URL": "smtp://ann:p%40ss@mail.example.com"})
    assert found.resolve_secret() == "p@ss"
    assert "p@ss" not in repr(found)
    assert from_environment({}) is None
    with pytest.raises(SettingsError, match="SMTP_NOTEBOOK_URL"):
        from_environment({"SMTP_NOTEBOOK_URL": "nonsense"})


@pytest.mark.parametrize(
    ("allow", "address", "allowed"),
    [
        ((), "ann@example.com", True),
        (("example.com",), "Ann@EXAMPLE.com", True),
        (("example.com",), "ann@sub.example.com", False),
        (("example.com",), "ann@notexample.com", False),
        (("ann@example.com",), "ann@example.com", True),
        (("ann@example.com",), "bob@example.com", False),
        (("exämple.test",), "ann@xn--exmple-cua.test", True),
        (("@example.com",), "ann@example.com", True),
    ],
)
def test_allow_compares_whole_domains_in_their_wire_form(allow, address, allowed):
    assert Connection.from_url("smtp://mail.example.com", allow=allow).allows(address) is allowed


def test_a_rate_is_kept_as_it_would_be_written():
    made = Connection.from_url("smtp://mail.example.com", rate="30 / minute, 100 recipients/min")
    assert made.rate == ("30/min", "100 recipients/min")
    assert made.with_(timeout=5).rate == made.rate
    assert made.with_(rate=["2000/day"]).rate == ("2000/day",)
    assert made.with_(rate="").rate == Connection.from_url("smtp://mail.example.com").rate == ()
    assert "min" not in repr(made)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.9", True),
        ("[::1]", True),
        ("mail.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host, local):
    assert Connection.from_url(f"smtp+plain://{host}").is_loopback is local


def test_a_missing_ca_file_is_named():
    with pytest.raises(SettingsError, match=r"nowhere\.pem"):
        Connection.from_url("smtp://mail.example.com", ca_file="nowhere.pem").tls_context()


def test_what_stands_behind_the_host_is_not_repeated():
    with pytest.raises(SettingsError) as caught:
        Connection.from_url("smtp://ann:secret%40mail.example.com")
    assert "secret" not in str(caught.value)


def test_a_name_that_ehlo_cannot_say_is_refused():
    with pytest.raises(SettingsError, match="EHLO"):
        Connection(host="mail.example.com", port=587, local_hostname="büro host")


def test_a_saved_connection_that_is_broken_can_be_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_NOTEBOOK_CONFIG", str(tmp_path))
    (tmp_path / "connections.json").write_text('{"broken": {"host": 5}, "nonsense": 7}')
    forget("broken")
    forget("nonsense")
    assert saved_names() == []
