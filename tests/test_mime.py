"""Bytes: what is written reads back as it was meant, by two parsers that do not know each other."""

from __future__ import annotations

import datetime as dt
import email
import re
from email import policy
from email.utils import parsedate_to_datetime

import fast_mail_parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp_notebook import Address, Attachment, Message, MessageError
from smtp_notebook.mime import _QP_UNSAFE, Draft, _quoted_printable, check_gate, to_bytes

EVIL = [
    "=?utf-8?q?hi=0D=0ABcc:_evil=40e.com?=",
    "=?utf-8?b?aGkNCkJjYzogZXZpbEBlLmNvbQ==?=",
    "=?utf-8?q?a?= =?utf-8?q?b?=",
    "=?x?q?a?=",
    "evil@attacker.example, " + "x" * 90,
    "x" * 200,
    "y " * 120,
    'a"b\\c',
    "Ann <evil@attacker.example>",
    "<b>&amp;\u202e",
    "Re: 日本語のとても長い件名" * 9,
    "\u00a0non\u00a0breaking",
    "a  b   c",
    "trailing:;,<>@()[]",
    "emoji 👩\u200d👩\u200d👧 joined",
    "Ω" * 80,
    "=",
    "?=",
    "=?",
    ".",
    "From ann",
    "ﷺ" * 40,
]


def message(**fields):
    defaults = {"to": "ann@example.com", "from_": "me@example.com", "body": "hi", "format": "text"}
    return Message(**(defaults | fields))


def parsed(content):
    return email.message_from_bytes(content, policy=policy.default)


def assert_framing(content):
    """A1, A2, A4: CRLF lines of at most 998 octets, 7-bit, no control characters in headers."""
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert content.isascii()
    assert b"\0" not in content
    head = content.partition(b"\r\n\r\n")[0]
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head)
    assert content.endswith(b"\r\n")


def assert_words(content):
    """B6: an encoded word has at most 75 characters, its line at most 76."""
    for line in content.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        for word in re.findall(rb"=\?[^ ?]+\?[bq]\?[^ ?]*\?=", line):
            assert len(word) <= 75
            assert len(line) <= 76


header_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=120)


def with_examples(function):
    for text in EVIL:
        function = example(text)(function)
    return function


@with_examples
@given(header_text)
@settings(max_examples=150, deadline=None)
def test_any_printable_subject_arrives_as_it_was_written(text):
    content = message(subject=text).as_bytes()
    assert_framing(content)
    assert_words(content)
    assert parsed(content)["subject"] == text.strip()
    assert fast_mail_parser.parse_email(content.decode()).subject == text.strip()


@with_examples
@given(header_text)
@settings(max_examples=150, deadline=None)
def test_any_display_name_stays_one_mailbox(text):
    content = message(to=Address("ann@example.com", text), cc=[Address("bob@example.com", text)]).as_bytes()
    assert_framing(content)
    assert_words(content)
    wanted = re.sub(" {2,}", " ", text.strip())
    others = fast_mail_parser.parse_email(content.decode()).headers
    for header, spec in (("To", "ann@example.com"), ("Cc", "bob@example.com")):
        (found,) = parsed(content)[header].addresses
        assert found.addr_spec == spec
        # The stdlib keeps the blank between two encoded words of a phrase, against RFC 2047, 6.2; the
        # other parser reads them as one text, as mail programs do.
        name, bracket, rest = others[header][0].rpartition("<")
        if bracket and wanted:
            quoted = name.strip()
            plain = re.sub(r"\\(.)", r"\1", quoted[1:-1]) if b'"' in content.split(b"\r\n")[1] else quoted
            assert plain == wanted or quoted == wanted
            assert rest == f"{spec}>"
        else:
            assert others[header] == [spec]


@with_examples
@given(header_text)
@settings(max_examples=100, deadline=None)
def test_any_custom_header_value_adds_no_header(text):
    if not text.strip():
        return
    content = message(headers={"X-Note": text}).as_bytes()
    assert_framing(content)
    names = [n.lower() for n in parsed(content).keys()]  # noqa: SIM118 - every occurrence
    assert sorted(names) == sorted({*names})
    assert "bcc" not in names


body_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=400)


@example(".\r\n.leading\n..two\nFrom me\n" + "x" * 2000)
@example("=" * 300 + " \t")
@example("a\rb\r\nc\n")
@example("")
@given(body_text)
@settings(max_examples=150, deadline=None)
def test_any_body_arrives_with_its_lines(text):
    content = message(body=text).as_bytes()
    assert_framing(content)
    for line in content.partition(b"\r\n\r\n")[2].split(b"\r\n"):
        assert len(line) <= 76
        assert not line.startswith((b".", b"From "))
    wanted = re.sub("\r\n|\r|\n", "\n", text)
    wanted = wanted if not wanted or wanted.endswith("\n") else wanted + "\n"
    got = parsed(content).get_payload(decode=True).decode().replace("\r\n", "\n")
    assert got == wanted


@given(st.binary(max_size=600))
def test_quoted_printable_is_what_the_standard_says(data):
    import quopri

    text = data.replace(b"\r", b"").replace(b"\n", b"\r\n")
    coded = _quoted_printable(text)
    assert quopri.decodestring(coded.replace("\n", "\r\n").encode()) == text
    assert all(len(line) <= 76 for line in coded.split("\n"))
    assert _QP_UNSAFE.pattern


file_name = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\"),
    min_size=1,
    max_size=60,
).filter(lambda n: n.strip() not in {"", ".", ".."})


@example("résumé ☃.pdf")
@example("a;b=\"c\".pdf")
@example("=?utf-8?q?x?=.pdf")
@example("x" * 200 + ".bin")
@example("100%.txt")
@given(file_name)
@settings(max_examples=150, deadline=None)
def test_any_file_name_arrives_without_a_path(name):
    content = message(attach=[Attachment(b"\0\1data", name)]).as_bytes()
    assert_framing(content)
    (part,) = parsed(content).iter_attachments()
    assert part.get_filename() == name.strip()
    assert part.get_payload(decode=True) == b"\0\1data"
    (other,) = fast_mail_parser.parse_email(content.decode()).attachments
    assert other.content == b"\0\1data"


def tree(part):
    if part.is_multipart():
        return [part.get_content_type(), *map(tree, part.iter_parts())]
    return part.get_content_type()


PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"format": "text"}, "text/plain"),
        ({"format": "markdown"}, ["multipart/alternative", "text/plain", "text/html"]),
        (
            {"format": "text", "attach": [Attachment(b"x", "x.bin")]},
            ["multipart/mixed", "text/plain", "application/octet-stream"],
        ),
        (
            {"format": "html", "body": '<img src="cid:logo.png" alt="">', "inline": [Attachment(PNG, "logo.png")]},
            ["multipart/alternative", "text/plain", ["multipart/related", "text/html", "image/png"]],
        ),
        (
            {
                "format": "html",
                "body": '<img src="cid:logo.png" alt="">',
                "inline": [Attachment(PNG, "logo.png")],
                "attach": [Attachment("a,b", "x.csv")],
            },
            [
                "multipart/mixed",
                ["multipart/alternative", "text/plain", ["multipart/related", "text/html", "image/png"]],
                "text/csv",
            ],
        ),
        (
            {"format": "text", "inline": [Attachment(PNG, "unused.png")]},
            ["multipart/mixed", "text/plain", "image/png"],
        ),
    ],
)
def test_the_tree_is_the_smallest_that_holds_it(fields, expected):
    content = message(**fields).as_bytes()
    assert tree(parsed(content)) == expected
    assert_framing(content)


def test_an_inline_image_is_related_by_its_content_id():
    content = message(
        format="html", body='<p><img src="cid:logo@x" alt="l"></p>', inline=[Attachment(PNG, "l.png", content_id="<logo@x>")]
    ).as_bytes()
    related = next(p for p in parsed(content).walk() if p.get_content_type() == "multipart/related")
    assert related.get_param("type") == "text/html"
    assert [p["content-id"] for p in related.iter_parts()][1] == "<logo@x>"


def test_the_headers_are_each_there_once_and_bcc_is_not():
    content = message(cc="c@example.com", bcc="secret@example.com", reply_to="r@example.com", subject="S").as_bytes()
    names = [n.lower() for n in parsed(content).keys()]  # noqa: SIM118 - every occurrence
    for name in ("from", "to", "cc", "reply-to", "date", "message-id", "subject", "mime-version"):
        assert names.count(name) == 1
    assert b"secret@example.com" not in content
    assert "bcc" not in names


def test_date_and_message_id_are_new_each_time_unless_stamped():
    mail = message(subject="x")
    first, second = parsed(mail.as_bytes()), parsed(mail.as_bytes())
    assert first["message-id"] != second["message-id"]
    assert re.fullmatch(r"<[A-Za-z0-9.]+@example\.com>", str(first["message-id"]))
    moment = parsedate_to_datetime(str(first["date"]))
    assert moment.tzinfo is not None
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(minutes=5)
    stamped = mail.stamped()
    assert {str(parsed(stamped.as_bytes())["message-id"]) for _ in range(3)} == {stamped.message_id}


def test_an_idn_domain_goes_as_its_a_label_and_a_utf8_local_part_as_itself():
    content = message(to="Jörg <joerg@exämple.test>").as_bytes()
    assert b"<joerg@xn--exmple-cua.test>" in content
    raw = message(to="Jörg <jörg@exämple.test>").as_bytes()
    assert "<jörg@exämple.test>".encode() in raw


def test_header_lines_are_folded_at_78_where_they_can_be():
    many = [f"Person Number{i} <person{i}@example.com>" for i in range(40)]
    content = message(to=many, subject="word " * 60).as_bytes()
    assert max(map(len, content.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 78
    assert len(parsed(content)["to"].addresses) == 40


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "a\nBcc: x@example.com"},
        {"subject": "a\rb"},
        {"subject": "a\0b"},
        {"subject": "a\x85b"},
        {"subject": "\ud800"},
        {"headers": {"X-A": "b\r\nBcc: x@example.com"}},
        {"headers": {"X-A\r\nBcc": "x@example.com"}},
        {"body": "nul \0 in it"},
        {"body": "\ud800"},
        {"headers": {"Bcc": "x@example.com"}},
    ],
)
def test_what_no_mail_can_hold_is_refused(fields):
    with pytest.raises(MessageError):
        message(**fields).as_bytes()


def test_the_gate_refuses_bytes_that_read_differently():
    draft = Draft(
        from_=Address("me@example.com"),
        to=(Address("ann@example.com"),),
        subject="hello",
        date=dt.datetime.now(dt.UTC),
        message_id="<1@example.com>",
        text="hi",
    )
    content = to_bytes(draft)
    check_gate(content, draft)
    for old, new in (
        (b"ann@example.com", b"ann@example.com, evil@example.com"),
        (b"hello", b"hello!"),
        (b"MIME-Version", b"Bcc: evil@example.com\r\nMIME-Version"),
        (b"hi", b"ho"),
        (b"Date:", b"Date :"),
        (b"\r\n\r\n", b"\r\n\r\n\0"),
    ):
        with pytest.raises(MessageError):
            check_gate(content.replace(old, new, 1), draft)
