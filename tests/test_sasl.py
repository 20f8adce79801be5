"""What is said to log in with a token, and what a server says of it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import sasl

TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
USERS = st.text(st.characters(blacklist_characters="\x00\x01", blacklist_categories=("Cs",)), min_size=1)


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (["login", "plain", "xoauth2", "plain-clienttoken", "oauthbearer"], "oauthbearer"),  # Gmail
        (["login", "xoauth2"], "xoauth2"),  # Microsoft
        (["plain", "login"], ""),
        ([], ""),
    ],
)
def test_the_standard_mechanism_is_chosen_where_it_is_offered(offered, wanted):
    assert sasl.chosen(offered) == wanted


def test_googles_own_example_is_said_letter_for_letter():
    """developers.google.com/workspace/gmail/imap/xoauth2-protocol."""
    said = sasl.response(
        "xoauth2", "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg", "h", 1
    )
    assert said == (
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
    )


def test_the_standards_own_example_is_said_letter_for_letter():
    """RFC 7628, 4.1."""
    said = sasl.response(
        "oauthbearer",
        "user@example.com",
        "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
        "server.example.com",
        143,
    )
    assert base64.b64decode(said) == (
        b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
        b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    )


@given(USERS, TOKENS)
def test_no_user_can_end_its_part_of_a_login(user, token):
    said = base64.b64decode(sasl.response("oauthbearer", user, token, "mail.example.com", 587)).decode()
    head, *parts = said.split("\x01")
    assert parts == ["host=mail.example.com", "port=587", f"auth=Bearer {token}", "", ""]
    name = head.removeprefix("n,a=").removesuffix(",")
    assert "," not in name
    assert name.replace("=2C", ",").replace("=3D", "=") == user


@given(USERS, TOKENS)
def test_every_form_in_which_a_token_travels_is_known(user, token):
    found = sasl.forms(user, token, "mail.example.com", 587)
    for mechanism in ("oauthbearer", "xoauth2"):
        assert sasl.response(mechanism, user, token, "mail.example.com", 587).decode() in found
    assert token in found


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"status": "400", "schemes": "Bearer", "scope": "https://mail.google.com/"}, "status 400, scope https://mail.google.com/, schemes Bearer"),
        ({"status": "invalid_token", "openid-configuration": "https://example.com/x"}, "status invalid_token"),
        ({"status": ["a"]}, ""),
        (["status"], ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_what_a_server_says_of_a_token_is_put_in_words(said, words):
    assert sasl.objection(base64.b64encode(json.dumps(said).encode()).decode()) == words


@given(st.text())
def test_a_challenge_that_explains_nothing_is_no_error(challenge):
    assert isinstance(sasl.objection(challenge), str)


@given(st.binary())
def test_a_challenge_of_any_octets_stays_on_one_short_line(octets):
    said = base64.b64encode(b'{"status": ' + json.dumps(octets.decode("latin-1")).encode() + b"}").decode()
    assert sasl.objection(said).isprintable()
    assert len(sasl.objection(said)) < 120
