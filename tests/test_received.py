"""A mail as it arrived: whatever somebody wrote, it is read, shown and searched, and its files are its octets."""

from __future__ import annotations

import datetime as dt
import json
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import Attachment, Message
from smtp_notebook.received import HEAD, PAGE, Received, bare_name, decoded
from smtp_notebook.views import still, viewed


def arrived(raw, *to):
    raw = raw if isinstance(raw, bytes) else raw.replace("\n", "\r\n").encode()
    now = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    return Received(raw, "a@example.com", to or ("b@example.com",), now, 1)


def made(**fields):
    fields = {"to": "ann@example.com", "from_": "me@example.com", "body": "x"} | fields
    return arrived(Message(**fields).as_bytes())


WORDS = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=90)


@given(WORDS)
def test_a_subject_is_read_as_it_was_written(subject):
    assert made(subject=subject.strip()).subject == " ".join(subject.split())


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "=?utf-8?q?Gr=C3=BC=C3=9Fe?=",
        "=?UTF-8?B?R3LDvMOfZQ==?= and more",
        "=?iso-8859-1?Q?a_b?= =?iso-8859-1?Q?c?=",
        "=?utf-8?q?Ann?= <ann@example.com>",
        "=?utf-8?q?a?=\r\n =?utf-8?q?b?=",
        "before =?koi8-r?B?8NLJ18XU?= after",
    ],
)
def test_encoded_words_are_read_as_the_standard_library_reads_them(value):
    assert decoded(value) == " ".join(str(make_header(decode_header(value))).split())


def test_a_letter_that_two_encoded_words_share_is_whole():
    assert decoded("=?utf-8?b?w7w=?= =?utf-8?q?=C3?= =?utf-8?q?=BC?=") == "üü"


@given(st.text() | st.binary().map(lambda b: b.decode("ascii", "surrogateescape")))
def test_any_header_becomes_text_that_can_travel(value):
    assert "\n" not in decoded(value).encode("utf-8").decode()


def test_octets_in_a_header_are_read_as_utf_8():
    assert arrived("Subject: Grüße\nFrom: x\n\nhi").subject == "Grüße"


# ------------------------------------------------------------------------------------------ files


@given(st.text(max_size=400))
def test_a_bare_name_is_one_name_without_path_or_control(name):
    bare = bare_name(name)
    assert 0 < len(bare) <= 120
    assert bare.isprintable() or not bare.isascii()
    assert not set(bare) & set("/\\\x00\n\r\t\x7f\u202e\u2066")
    assert bare not in {".", ".."}


@pytest.mark.parametrize(
    ("given", "bare"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        ("a\r\nb\x00.txt", "a b .txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("x" * 500 + ".pdf", "x" * 116 + ".pdf"),
        ("Ärger & Söhne.csv", "Ärger & Söhne.csv"),
    ],
)
def test_a_strangers_name_is_made_one_that_can_be_saved(given, bare):
    assert bare_name(given) == bare


@given(st.binary(max_size=3000))
def test_a_file_is_exactly_its_octets(content):
    ((name, kind, found, cid),) = made(attach=[Attachment(content, "a.bin")]).files()
    assert (name, kind, found, cid) == ("a.bin", "application/octet-stream", content, "")


def test_names_beyond_ascii_and_images_inside_are_found():
    png = b"\x89PNG\r\n\x1a\n" + bytes(40)
    mail = made(
        body="<img src='cid:logo@example.com'>",
        format="html",
        inline=[Attachment(png, "logo.png", "image/png", content_id="logo@example.com")],
        attach=[Attachment("ü", "Übersicht Straße.txt")],
    )
    assert [(n, k, c) for n, k, _, c in mail.files()] == [
        ("logo.png", "image/png", "logo@example.com"),
        ("Übersicht Straße.txt", "text/plain", ""),
    ]
    assert "data:image/png;base64,iVBOR" in mail.view().page


MIXED = """MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain

first
--b
Content-Type: text/plain

second
--b
Content-Type: message/rfc822

Subject: inner
Content-Type: multipart/mixed; boundary=c

--c
Content-Disposition: attachment; filename=within.txt

deep
--c--

--b
Content-Type: application/pdf

pdf
--b--
"""


def test_nothing_that_a_mail_carries_is_lost():
    found = {name: content for name, _, content, _ in arrived(MIXED).files()}
    assert list(found) == ["text.txt", "message.eml", "application.pdf"]
    assert found["text.txt"].strip() == b"second"
    assert b"Subject: inner" in found["message.eml"]
    assert b"deep" in found["message.eml"]
    assert arrived(MIXED).body("plain").strip() == "first"


def test_an_html_part_with_a_content_id_is_still_the_body():
    mail = arrived("Content-Type: text/html\nContent-ID: <root@example.com>\n\n<p>hi")
    assert mail.body("html") == "<p>hi"
    assert mail.files() == []


# ------------------------------------------------------------------------------------------- view


NESTED = "".join(f"Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n" for i in range(2_000)) + "\nend"
ODD = {
    "nothing": b"",
    "no head": b"just words\r\nand more",
    "no end of head": b"Subject: x",
    "octets": bytes(range(256)) * 40,
    "nested": NESTED.encode(),
    "no such charset": b"Content-Type: text/plain; charset=klingon\r\n\r\nqapla'",
    "a codec that is none": b"Content-Type: text/plain; charset=zlib\r\n\r\nx",
    "escapes": b"Content-Type: text/html; charset=unicode_escape\r\n\r\n\\ud800<p>x",
    "half a letter": b"Content-Type: text/html; charset=utf-16\r\n\r\n\x00\xd8x",
    "bad base64": b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n????",
    "bad type": b'Content-Type: ;;"\r\nContent-Disposition: ;=\r\n\r\nx',
    "no end": b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>x',
    "a bad name": b"Content-Disposition: attachment; filename*=x'y'%zz%00\r\n\r\nx",
    "long head": b"X: " + b"y" * (HEAD + 10),
    "null": b"Subject: a\x00b\r\n\r\n\x00",
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_whatever_arrives_is_shown_searched_and_saved(raw):
    mail = arrived(raw)
    view = mail.view()
    shown = [view.page, view.text, view.headers, view.notes, mail.subject, mail.searched, mail.body("html")]
    json.dumps([shown, [f[0] for f in mail.files()]], ensure_ascii=False).encode("utf-8")


@given(
    st.binary(max_size=2000)
    | st.text().map(lambda s: f"Content-Type: {s}\r\n\r\n{s}".encode("utf-8", "replace"))
)
def test_no_octets_keep_a_mail_from_being_shown(raw):
    mail = arrived(raw)
    json.dumps([mail.view().headers, mail.view().text, mail.searched], ensure_ascii=False).encode("utf-8")
    assert all(bare_name(name) == name for name, *_ in mail.files())


def test_a_mail_that_cannot_be_read_is_shown_by_its_source_and_says_so():
    view = arrived(NESTED).view()
    assert "boundary=b1999" in view.text
    assert "cannot be read (RecursionError)" in view.notes[0]
    assert ("Envelope to", "b@example.com") in view.headers


def test_what_is_missing_or_left_out_is_said():
    assert "neither text nor HTML" in arrived("Content-Type: image/png\n\nx").view().notes[0]
    only = arrived("Content-Type: text/html\n\n<p>one&amp;two<style>p{}</style>").view()
    assert (only.text, "no text part" in only.notes[0]) == ("one&two", True)
    remote = arrived("Content-Type: text/html\n\n<img src='https://example.com/x.png'>").view()
    assert any("from the web" in note for note in remote.notes)
    large = arrived(f"Content-Type: text/html\n\n{'x' * (PAGE + 1)}").view()
    assert large.page == ""
    assert "too many to be shown" in large.notes[0]


def test_the_envelope_tells_of_those_whom_no_header_names():
    view = arrived("To: ann@example.com\n\nx", "ann@example.com", "secret@example.org").view()
    assert ("Envelope to", "ann@example.com, secret@example.org") in view.headers


HOSTILE = [
    "<style",
    "</style ",
    "<style>",
    " media='",
    ' style="',
    "color-scheme:",
    "cid:",
    "(prefers-color-scheme:",
    "<",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_page_of_tags_that_never_end_takes_no_time(piece):
    viewed(piece * 60_000, "", (), image=lambda _: None)
    assert arrived(f"Content-Type: text/html\n\n{piece * 60_000}").searched


def test_a_page_stands_still_where_nobody_can_choose_its_light():
    page = still(
        viewed("<style>@media (prefers-color-scheme:dark){p{}}</style>", "", (), image=lambda _: None).page
    )
    assert "smtpnb" not in page
    assert "@media (max-width:0)" in page


# ----------------------------------------------------------------------------------------- search


def test_a_search_reads_subject_addresses_and_text_without_tags():
    mail = made(subject="Größe", to="Ünal <u@example.com>", bcc="hidden@example.org", body="**Straße** here")
    mail = Received(mail.raw, "me@example.com", ("u@example.com", "hidden@example.org"), mail.received)
    for word in ("grösse", "ünal", "hidden@example.org", "strasse", "me@example.com"):
        assert word in mail.searched, word
    html = arrived("Content-Type: text/html\n\n<style>secretclass{}</style><p title=attribute>Words")
    assert "words" in html.searched
    assert "secretclass" not in html.searched
    assert "attribute" not in html.searched
