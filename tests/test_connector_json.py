"""The connector's own JSON: every property, both ways, and through a server."""

from __future__ import annotations

import base64
import json

import fast_mail_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_notebook import Message, MessageError, OptionError, send

EVERYTHING = {
    "To": "Ann <ann@example.com>; bob@example.org",
    "CC": "carol@example.com",
    "Bcc": "dave@example.com",
    "Subject": "Grüße, =?utf-8?q?x?=",
    "Body": '<p>Hi <img src="cid:logo@x" alt="logo"></p>',
    "From": "Sales Team <sales@example.com>",
    "IsHtml": True,
    "Importance": "High",
    "Attachments": [
        {
            "ContentData": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode(),
            "ContentType": "image/png",
            "ContentTransferEncoding": "base64",
            "FileName": "logo.png",
            "ContentId": "logo@x",
        },
        {
            "ContentData": base64.b64encode("ünïcode".encode()).decode(),
            "ContentType": "application/pdf",
            "ContentTransferEncoding": "base64",
            "FileName": "Angebot für Ann.pdf",
        },
        {
            "ContentData": "plain\r\n",
            "ContentType": "text/plain",
            "ContentTransferEncoding": "none",
            "FileName": "note.txt",
        },
    ],
}


def test_every_property_of_the_connector_survives_both_ways():
    message = Message.from_connector(EVERYTHING)
    assert message.to_connector() == EVERYTHING
    assert Message.from_connector(json.loads(json.dumps(message.to_connector()))) == message


def test_every_property_arrives_in_the_sandbox_and_reads_back_by_two_parsers(sandbox):
    send(Message.from_connector(EVERYTHING), via=sandbox)
    (mail,) = sandbox.messages
    assert mail.recipients == ("ann@example.com", "bob@example.org", "carol@example.com", "dave@example.com")
    assert mail.sender == "sales@example.com"
    found = mail.email
    assert str(found["from"]) == "Sales Team <sales@example.com>"
    assert [str(a) for a in found["to"].addresses] == ["Ann <ann@example.com>", "bob@example.org"]
    assert [str(a) for a in found["cc"].addresses] == ["carol@example.com"]
    assert found["bcc"] is None
    assert b"dave@example.com" not in mail.raw
    assert found["subject"] == EVERYTHING["Subject"]
    assert (found["importance"], found["x-priority"], found["x-msmail-priority"]) == ("high", "1", "High")
    assert found.get_body(("html",)).get_content().strip() == EVERYTHING["Body"]
    assert [
        (p.get_filename(), p.get_content_type(), p.get_payload(decode=True)) for p in found.iter_attachments()
    ] == [
        ("Angebot für Ann.pdf", "application/pdf", "ünïcode".encode()),
        ("note.txt", "text/plain", b"plain\r\n"),
    ]
    image = next(p for p in found.walk() if p.get_content_type() == "image/png")
    assert (image["content-id"], image.get_content_disposition()) == ("<logo@x>", "inline")

    other = fast_mail_parser.parse_email(mail.raw)
    assert other.warnings == []
    assert other.subject == EVERYTHING["Subject"]
    assert (other.from_.display_name, other.from_.address) == ("Sales Team", "sales@example.com")
    assert [(a.display_name, a.address) for a in other.to] == [
        ("Ann", "ann@example.com"),
        (None, "bob@example.org"),
    ]
    assert [(a.display_name, a.address) for a in other.cc] == [(None, "carol@example.com")]
    assert other.bcc == []
    assert [other.headers[n] for n in ("Importance", "X-Priority", "X-MSMail-Priority")] == [
        ["high"],
        ["1"],
        ["High"],
    ]
    assert [t.strip() for t in other.text_html] == [EVERYTHING["Body"]]
    assert len(other.text_plain) == 1
    assert [(a.filename, a.mimetype, a.content, a.content_id, a.disposition) for a in other.attachments] == [
        ("logo.png", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(20), "logo@x", "inline"),
        ("Angebot für Ann.pdf", "application/pdf", "ünïcode".encode(), None, "attachment"),
        ("note.txt", "text/plain", b"plain\r\n", None, "attachment"),
    ]


def test_commas_separate_too_and_names_are_read_whatever_their_case():
    message = Message.from_connector(
        {"to": "a@example.com, b@example.com", "SUBJECT": "x", "body": "y", "ishtml": "false"}
    )
    assert (message.recipients, message.format) == (("a@example.com", "b@example.com"), "text")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"Subjct": "x"}, "'Subject'"),
        ({"To": "a@"}, "to:"),
        ({"IsHtml": "perhaps"}, "IsHtml"),
        ({"Importance": "urgent"}, "importance"),
        ({"Attachments": [{"ContentData": "*", "FileName": "x.pdf"}]}, "base64"),
        ({"Attachments": [{"FileName": "x.pdf"}]}, "ContentData"),
        ({"Attachments": [{"ContentData": "eA==", "FileNam": "x"}]}, "'FileName'"),
        ({"Attachments": [{"ContentData": "eA==", "ContentTransferEncoding": "quoted-printable"}]}, "base64"),
        ({"to": "a@example.com", "To": "b@example.com"}, "twice"),
        ("To: a@example.com", "str"),
        (None, "NoneType"),
        ({"Attachments": "x.pdf"}, "list"),
        ({"Attachments": ["x.pdf"]}, "str"),
        ({"Attachments": [{"ContentData": "eA", "FileName": "x"}]}, "base64"),
        ({"Attachments": [{"ContentData": "é", "FileName": "x"}]}, "base64"),
        ({"Attachments": [{"ContentData": "eA==", "FileName": "../x"}]}, "../x"),
        ({"Attachments": [{"ContentData": "eA==", "FileName": "x", "ContentType": "pdf"}]}, "media type"),
        ({"Attachments": [{"ContentData": "eA==", "FileName": "x", "ContentId": "a b"}]}, "Content-ID"),
        ({"Attachments": [{"ContentData": "\ud800", "ContentTransferEncoding": "none"}]}, "half"),
        ({"Body": "\0"}, "NUL"),
        ({"Body": ["x"]}, "Body"),
        ({"Subject": "a\r\nBcc: x@example.com"}, "line break"),
        ({"From": "a@example.com; b@example.com"}, "one sender"),
    ],
)
def test_a_bad_property_is_named(given, names):
    with pytest.raises((MessageError, OptionError)) as caught:
        Message.from_connector(given)
    assert names in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_content_without_an_encoding_is_text_and_travels_as_it_can():
    """``none`` is kept where 7-bit mail can hold it; what it cannot hold becomes base64, unchanged."""
    for data, arrives in (
        ("a\r\n", "none"),
        ("é", "base64"),
        ("a\nb", "base64"),
        ("x" * 999, "base64"),
        ("\0", "base64"),
    ):
        file = {
            "ContentData": data,
            "ContentTransferEncoding": "none",
            "FileName": "x.txt",
            "ContentType": "text/plain",
        }
        message = Message.from_connector({"To": "a@example.com", "Body": "", "Attachments": [file]})
        assert message.attach[0].content == data.encode()
        (back,) = message.to_connector()["Attachments"]
        assert back["ContentTransferEncoding"] == arrives
        assert Message.from_connector(message.to_connector()) == message


def test_base64_may_be_broken_into_lines_and_a_name_may_be_missing():
    message = Message.from_connector(
        {"Attachments": [{"ContentData": "aGVs\r\nbG8=\n", "ContentType": "image/png"}]}
    )
    assert (message.attach[0].content, message.attach[0].name) == (b"hello", "attachment.png")


def test_an_id_that_nothing_shows_is_an_attachment():
    file = {"ContentData": "eA==", "FileName": "x.png", "ContentId": "<x>"}
    for body, html, inline in (("<img src='cid:x'>", True, 1), ("<p></p>", True, 0), ("cid:x", False, 0)):
        message = Message.from_connector({"Body": body, "IsHtml": html, "Attachments": [file]})
        assert (len(message.inline), len(message.attach)) == (inline, 1 - inline)
        assert (*message.inline, *message.attach)[0].content_id == "x"


def test_markdown_leaves_as_the_html_that_it_becomes():
    message = Message(to="a@example.com", body="**x**")
    found = message.to_connector()
    assert (found["IsHtml"], found["Body"]) == (True, message.html)


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30).map(
    str.strip
)
people = st.lists(
    st.builds(
        lambda name, local: f'"{name}" <{local}@example.com>',
        st.text("abc é,;@<>()", max_size=12).map(str.strip),
        st.text("abcdefgh", min_size=1, max_size=8),
    ),
    max_size=3,
)
files = st.lists(
    st.fixed_dictionaries(
        {"ContentData": st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode())},
        optional={
            "ContentType": st.sampled_from(
                ["image/png", "application/pdf", "text/plain; charset=utf-8", "text/calendar; method=REQUEST"]
            ),
            "ContentTransferEncoding": st.sampled_from(["base64", "Base64"]),
            "FileName": st.sampled_from(["a.pdf", "ä ö.png", "x;y.txt"]),
        },
    ),
    max_size=3,
)


@given(
    to=people,
    cc=people,
    bcc=people,
    subject=words,
    body=words,
    html=st.booleans(),
    importance=st.sampled_from(["Low", "Normal", "High"]),
    attachments=files,
)
@settings(max_examples=100, deadline=None)
def test_from_to_from_is_identity(to, cc, bcc, subject, body, html, importance, attachments):
    given_json = {
        "to": "; ".join(to), "CC": ", ".join(cc), "bcc": "; ".join(bcc), "Subject": subject, "Body": body,
        "From": "me@example.com", "IsHtml": html, "Importance": importance, "Attachments": attachments,
    }  # fmt: skip
    message = Message.from_connector(given_json)
    assert len(message.to) == len(to)
    once = json.loads(json.dumps(message.to_connector()))
    assert Message.from_connector(once) == message
    assert Message.from_connector(once).to_connector() == once
    other = fast_mail_parser.parse_email(message.as_bytes())
    assert other.subject == subject
    assert [a.content for a in other.attachments] == [base64.b64decode(a["ContentData"]) for a in attachments]
