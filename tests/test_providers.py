"""The large providers: what a name connects to, and what is asked of the person."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import Connection, OptionError, SecretError, SettingsError, connect, providers
from smtp_notebook.connection import RESERVED, current
from smtp_notebook.providers import PROVIDERS

ALL = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)


def given_user(provider):
    return {} if provider.fixed_user else {"user": "ann@example.com"}


def given_region(provider):
    return {"region": "eu-central-1"} if provider.has_regions and not provider.regions else {}


def made(provider, **settings):
    return connect(
        provider.name, password=lambda: "x", **(given_user(provider) | given_region(provider) | settings)
    )


@ALL
def test_a_name_and_a_user_make_a_connection_that_is_encrypted(provider):
    found = made(provider)
    assert found == current()
    assert (found.port, found.security) == (provider.port, provider.security)
    assert found.security != "plain"
    assert found.provider == provider.name
    assert found.host == provider.host_in(given_region(provider).get("region", ""))
    assert found.user == (provider.fixed_user or "ann@example.com")


@ALL
def test_a_setting_of_the_person_wins(provider):
    found = made(
        provider,
        port=2525,
        rate="1/min",
        max_connections=1,
        messages_per_connection=7,
        sender="x@example.com",
    )
    assert (found.port, found.rate, found.max_connections, found.messages_per_connection) == (
        2525,
        ("1/min",),
        1,
        7,
    )
    assert found.sender == "x@example.com"


@ALL
def test_a_missing_user_is_explained(provider):
    if provider.fixed_user:
        assert connect(provider.name, password=lambda: "x").user == provider.fixed_user
        return
    with pytest.raises(SettingsError) as caught:
        connect(provider.name, **given_region(provider))
    assert provider.user in str(caught.value)
    assert "user=" in caught.value.fix


@ALL
def test_a_plain_url_of_the_same_server_is_recognised(provider):
    host = provider.host_in("eu-central-1") or provider.host_in("")
    found = Connection.from_url(f"smtp://ann@{host.upper()}")
    assert found.provider == provider.name
    assert found.asks_for == f"Password of ann at {found.host} ({provider.password})"
    # Its limits are what the person gives: a URL says everything.
    assert found.rate == ()


@ALL
def test_every_fact_names_a_page_of_the_provider(provider):
    pages = [*provider.sources, *(fact.source for fact in provider.limits)]
    assert provider.sources
    assert provider.limits
    assert all(re.fullmatch(r"https://[\w.-]+/\S+", page) for page in pages)
    assert all(not fact.text.endswith(".") for fact in provider.limits)


@ALL
def test_a_limit_that_is_a_setting_is_among_the_facts(provider):
    """Nothing is held up by a figure that nobody documents."""
    said = " ".join(fact.text.replace(",", "") for fact in provider.limits)
    numbers = re.findall(r"\d+", " ".join([provider.rate, *provider.rates.values()]))
    numbers += [str(n) for n in (provider.max_connections, provider.messages_per_connection) if n]
    numbers += [str(provider.max_message_bytes // 2**20)] if provider.max_message_bytes else []
    assert all(re.search(rf"\b{n}\b", said) for n in numbers)


def test_every_name_is_one_providers_and_no_saved_connection_hides_it():
    names = [n for p in PROVIDERS for n in (p.name, *p.aliases)]
    assert len(names) == len(set(names))
    assert {"sandbox", *names} == RESERVED
    assert {"gmail", "google", "outlook", "office365", "microsoft365", "yahoo", "icloud", "fastmail", "ses", "sendgrid",
            "mailgun", "postmark", "mailjet", "brevo"} <= RESERVED  # fmt: skip


@pytest.mark.parametrize(
    ("user", "rate"),
    [
        ("nobody!@gmail.com", ("500/day",)),
        ("you@GoogleMail.com", ("500/day",)),
        ("ann@example.com", ("2000/day",)),
    ],
)
def test_a_private_gmail_account_sends_less_than_one_of_an_organisation(user, rate):
    found = connect("Google", user=user, password=lambda: "x")
    assert found.rate == rate
    assert found.sender == user


@pytest.mark.parametrize(
    ("name", "settings", "host"),
    [
        ("ses", {"region": "eu-central-1"}, "email-smtp.eu-central-1.amazonaws.com"),
        ("ses", {"region": " US-East-1 "}, "email-smtp.us-east-1.amazonaws.com"),
        ("mailgun", {}, "smtp.mailgun.org"),
        ("mailgun", {"region": "EU"}, "smtp.eu.mailgun.org"),
    ],
)
def test_a_region_decides_the_server(name, settings, host):
    assert connect(name, user="x", password=lambda: "x", **settings).host == host


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ses", {}), ("ses", {"region": 5}), ("mailgun", {"region": "mars"}), ("ses", {"region": "a b/c"})],
)
def test_a_region_that_is_missing_or_none_is_refused(name, settings):
    with pytest.raises(SettingsError):
        connect(name, user="x", password=lambda: "x", **settings)
    assert current() is None


def test_a_region_where_there_is_none_is_an_unknown_setting():
    with pytest.raises(OptionError, match="region"):
        connect("gmail", user="nobody!@gmail.com", region="eu")


def test_the_error_of_a_login_that_nobody_can_be_asked_for_is_the_usual_one():
    with pytest.raises(SecretError, match="SMTP_NOTEBOOK_PASSWORD"):
        connect("gmail", user="nobody!@gmail.com")


@given(st.text(max_size=60))
def test_any_host_is_somebodys_or_nobodys(host):
    found = providers.at(host)
    assert found is None or found in PROVIDERS


@pytest.mark.parametrize(
    "host",
    [
        "mail.example.com",
        "smtp.gmail.com.example.org",
        "xsmtp.gmail.com",
        "email-smtp.example.com",
        "127.0.0.1",
    ],
)
def test_a_host_that_only_looks_like_a_providers_is_not_taken_for_it(host):
    assert providers.at(host) is None
