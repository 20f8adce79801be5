"""Addresses: what is one, what is not, and what goes on the wire."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import Address, AddressError
from smtp_notebook.addresses import make_address, parse_addresses, split_addresses, split_mailbox

GOOD = [
    ("ann@example.com", "", "ann@example.com"),
    ("Ann Smith <ann@example.com>", "Ann Smith", "ann@example.com"),
    ('"Smith, Ann" <ann@example.com>', "Smith, Ann", "ann@example.com"),
    (r'"Ann \"A\" Smith" <ann@example.com>', 'Ann "A" Smith', "ann@example.com"),
    ("Jörg <joerg@exämple.test>", "Jörg", "joerg@xn--exmple-cua.test"),
    ("jörg@example.com", "", "jörg@example.com"),
    ("Ann@EXAMPLE.com", "", "Ann@example.com"),
    ("ann@localhost", "", "ann@localhost"),
    ("ann@relay.corp.local", "", "ann@relay.corp.local"),
    ("ann@[127.0.0.1]", "", "ann@[127.0.0.1]"),
    ('"a b"@example.com', "", '"a b"@example.com'),
    ('"x@other.example x"@example.com', "", '"x@other.example x"@example.com'),
    ("=?utf-8?q?x?= <ann@example.com>", "=?utf-8?q?x?=", "ann@example.com"),
    ("Ann (Sales) <ann@example.com>", "Ann (Sales)", "ann@example.com"),
    ("<ann@example.com>", "", "ann@example.com"),
    ("ann@[IPv6:2001:db8::1]", "", "ann@[IPv6:2001:db8::1]"),
    ("ann@faß.de", "", "ann@xn--fa-hia.de"),
    ("ann@xn--exmple-cua.test", "", "ann@xn--exmple-cua.test"),
    ("ann@ｅｘａｍｐｌｅ.com", "", "ann@example.com"),
    ("j\u0301o@example.com", "", "j\u0301o@example.com"),
    ("e\u0301@example.com", "", "\u00e9@example.com"),
    ("x" * 64 + "@example.com", "", "x" * 64 + "@example.com"),
    (
        "x" * 64 + "@" + ".".join(["y" * 60] * 3) + ".com",
        "",
        "x" * 64 + "@" + ".".join(["y" * 60] * 3) + ".com",
    ),
    ('"Ann" "B" <ann@example.com>', '"Ann" "B"', "ann@example.com"),
    (r'"open \" <ann@example.com>', r'"open \"', "ann@example.com"),
]
BAD = [
    "",
    "   ",
    "a@",
    "@b.c",
    "ann",
    "ann@example..com",
    "a b@example.com",
    "ann@exa mple.com",
    "ann@example.com\nBcc: x@y.z",
    "ann\r\n@example.com",
    "ann\0@example.com",
    "user@good.com(x)evil.com",
    "user(x)@good.com",
    "a@b@example.com",
    "<ann@example.com",
    "ann@example.com>",
    "<@relay.example:ann@example.com>",
    "team: ann@example.com;",
    "ann@example.com, bob@example.com",
    "ann@example.com; bob@example.com",
    "x" * 65 + "@example.com",
    "ann@" + "x" * 64 + ".com",
    "ann@-x.com",
    "ann@example.com\u2028x",
    "\ud800@example.com",
    "ann@127.0.0.1",
    "ann@[127.0.0.1",
    "ann@[example.com]",
    '""@example.com',
    "ann@example.com (Ann)",
    "Ann <ann@example.com> Smith",
    "Ann <>",
    "ann@ex\u200bample.com",
    "ann@exa_mple.com",
    "ann@example.com.",
    "ann@xn--zzzzzzzz.test",
    "ann..b@example.com",
    "ann.@example.com",
    "Ann\tSmith <ann@example.com>",
    "Ann\x7f <ann@example.com>",
    "Ann \ud83d <ann@example.com>",
    # CVE-2023-27043: a parser that stops early would take the first for the mailbox.
    "alice@example.org)bob@example.com",
    "alice@example.org(bob@example.com",
    "alice@example.org<bob@example.com",
    "alice@example.org[bob@example.com",
    "alice@example.org:bob@example.com",
    "alice@example.org\\bob@example.com",
]


@pytest.mark.parametrize(("text", "name", "wire"), GOOD)
def test_an_address_is_read_as_it_was_meant(text, name, wire):
    address = Address.parse(text)
    assert (address.display_name, address.wire) == (name, wire)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_single_address_is_refused_in_one_sentence_with_a_fix(text):
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert caught.value.cause.endswith(".")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "a:" * 5_000,
        "(" * 5_000,
        "<" * 50_000,
        '"' * 49_999,
        "a@b," * 30_000 + "x",
        "\\" * 99_999,
    ],
)
def test_hostile_lengths_are_refused_quickly(text):
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        with pytest.raises(AddressError):
            Address.parse(text)
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 1, "what is linear takes milliseconds, what is quadratic minutes"


def test_a_path_has_at_most_256_octets_and_its_parts_64_and_255():
    """A5 (RFC 5321, 4.5.3.1); octets, not characters."""
    with pytest.raises(AddressError, match="64 octets"):
        Address.parse("é" * 33 + "@example.com")
    for local, domain in (("x" * 64, ".".join(["y" * 63] * 4)), ("x", "é." * 60 + "test")):
        with pytest.raises(AddressError):
            Address.parse(f"{local}@{domain}")


def test_the_offending_text_is_shown_but_never_whole_when_it_is_long():
    with pytest.raises(AddressError) as caught:
        Address.parse("x" * 500)
    assert "x" * 59 + "…" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("control", ["\n", "\r", "\r\n", "\0", "\x1b", "\x85", "\u2028", "\u2029", "\ud800"])
@pytest.mark.parametrize(
    "place", ["{}ann@example.com", "an{}n@example.com", "Ann {} <ann@example.com>", "ann@exam{}ple.com"]
)
def test_a_control_character_anywhere_is_an_error_that_says_so(control, place):
    with pytest.raises(AddressError, match=r"line break|control character") as caught:
        parse_addresses(place.format(control))
    assert "\n" not in str(caught.value)


def test_semicolons_and_commas_separate_outside_quotes_and_brackets():
    text = 'Ann <a@example.com>; "Bob; B, C" <b@example.com>,c@example.com;;, '
    assert [a.wire for a in parse_addresses(text)] == ["a@example.com", "b@example.com", "c@example.com"]


def test_a_comma_in_brackets_separates_nothing():
    assert split_addresses("Ann <a,b@example.com>; <x;y>,z") == ["Ann <a,b@example.com>", "<x;y>", "z"]


@pytest.mark.parametrize("part", ["addr_spec", "display_name"])
def test_no_part_of_an_address_holds_a_control_character(part):
    parts = {"addr_spec": "ann@example.com", "display_name": "Ann"}
    with pytest.raises(AddressError, match="line break"):
        make_address(**(parts | {part: parts[part] + "\nBcc: x@example.net"}))


def test_a_list_may_mix_texts_and_addresses():
    found = parse_addresses(["a@example.com; b@example.com", Address("c@example.com", "Cé")])
    assert [str(a) for a in found] == ["a@example.com", "b@example.com", "Cé <c@example.com>"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Address(5),
        lambda: Address(None),
        lambda: Address("ann@example.com", None),
        lambda: Address("ann@example.com", 5),
    ],
)
def test_an_address_is_made_of_text(make):
    with pytest.raises(AddressError):
        make()


@pytest.mark.parametrize("value", [5, [None], [3.5], object()])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(AddressError):
        parse_addresses(value)


@pytest.mark.parametrize(("text", "needs"), [("jörg@example.com", True), ("joerg@exämple.test", False)])
def test_only_a_non_ascii_local_part_needs_smtputf8(text, needs):
    assert Address.parse(text).needs_smtputf8 is needs


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60)


@given(name=PRINTABLE)
def test_writing_an_address_and_reading_it_gives_it_back(name):
    address = Address("ann@example.com", name)
    assert Address.parse(str(address)) == address


@given(text=st.text(max_size=80))
def test_splitting_never_loses_or_invents_a_character_but_separators(text):
    kept = "".join("".join(split_addresses(text)).split())
    assert len(kept) <= len("".join(text.split()))
    assert all(piece for piece in split_addresses(text))


@given(text=st.text(string.printable, max_size=80))
def test_whatever_is_parsed_is_an_address_or_an_address_error(text):
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert not set(address.wire) & set("\r\n\0<>")
    assert split_mailbox(text)[1]


@given(name=PRINTABLE, other=PRINTABLE)
def test_a_name_adds_no_recipient_to_a_list(name, other):
    written = f"{Address('ann@example.com', name)}; {Address('bob@example.com', other)}"
    assert [a.wire for a in parse_addresses(written)] == ["ann@example.com", "bob@example.com"]


@given(spec=st.text(st.characters(codec="utf-8"), max_size=40))
def test_what_the_envelope_gets_is_one_word_with_an_ascii_domain(spec):
    try:
        address = Address(spec)
    except AddressError:
        return
    local, _, domain = address.wire.rpartition("@")
    assert domain.isascii()
    assert domain.startswith("[") or domain == domain.lower()
    assert local
    assert not any(ord(c) < 32 or ord(c) == 127 for c in address.wire)
    assert Address(address.wire).wire == address.wire
