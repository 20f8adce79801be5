"""Bytes: what is written reads back as it was meant, by parsers that do not know each other.

They are the stdlib's two (``policy.default`` and the older ``compat32``) and the Rust one under
fast_mail_parser. Where they disagree with each other the standard decides:

- The stdlib's newer parser keeps the blank between two encoded words of a display name; RFC 2047, 6.2 drops
  it, as the other two do. Names are judged by those, addresses by all three.
- ``get_filename()`` of the stdlib takes quotes and angle brackets off an RFC 2231 name, although they belong
  to it; the parameter itself, and the Rust parser, have the whole name.
- The Rust parser splits parameters at a semicolon inside quotes, against RFC 2045, 5.1. Other readers do so
  too, so such a name is written percent-encoded, which all read alike.
"""

from __future__ import annotations

import base64
import datetime as dt
import email
import quopri
import re
import string
from email import policy
from email.header import decode_header, make_header
from email.utils import getaddresses, parsedate_to_datetime

import fast_mail_parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp_notebook import Address, Attachment, Message, MessageError
from smtp_notebook.mime import Draft, _encoded_words, _older_text, _quoted_printable, check_gate, to_bytes

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
    "=?utf-8?q?hi=0D=0ABcc:_evil=40e.com?= and more",
    "a =?utf-8?q?x?=, b",
    "=?utf-8?q?" + "a" * 70 + "?=",
    "\U0010ffff\ufffe\ufeff",
    "\u202eexe.fdp\u202c \u200b\u00ad",
    "e\u0301 " * 40,
    '";</title><script>alert(1)</script>',
    "%0d%0aBcc:%20evil@example.org",
    "Robert'); DROP TABLE Leads;--",
    "$(touch /tmp/x) `id` ${HOME} {{ 7*7 }}",
    "ÅÍÎÏ˝ÓÔ\uf8ffÒÚÆ☃ ¸˛Ç◊ı˜Â¯˘¿",
    "Ṱ̺̺̕o͞ ̷i̲̬͇̪͙n̝̗͕v̟̜̘̦͟o̶̙̰̠kè͚̮̺̪̹̱̤",
    "(╯°□°）╯︵ ┻━┻)",
    "@@@,;<a@b.c>,",
    "\\" * 30,
    '"' * 31,
    "undefined",
    "\u3000ideographic\u3000",
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


def folded_back(value):
    return re.sub(r"\r?\n(?=[ \t])", "", value)


def old_text(value):
    """What the older stdlib parser reads."""
    return str(make_header(decode_header(folded_back(value))))


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
    assert old_text(email.message_from_bytes(content)["subject"]) == text.strip()
    assert fast_mail_parser.parse_email(content).subject == text.strip()


def word(text, kind):
    if kind == "b":
        return f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="
    coded = (
        c if c in SAFE_IN_Q else "_" if c == " " else "".join(f"={o:02X}" for o in c.encode()) for c in text
    )
    return f"=?utf-8?q?{''.join(coded)}?="


SAFE_IN_Q = string.ascii_letters + string.digits + "!*+/-"


@given(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=200),
        st.text(st.sampled_from("ab9 =?_é日😀"), max_size=200),
        st.builds(
            lambda before, text: before + text, st.text("a 8=", max_size=90), st.text("é日😀B", max_size=90)
        ),
    ),
    st.integers(-5, 90),
)
@settings(max_examples=500, deadline=None)
def test_a_text_is_cut_into_the_fewest_words_that_hold_whole_characters(text, room):
    rooms = [min(room, 75) if room >= 30 else 75, 75]
    octets = len(text.encode())
    kind = "q" if len(word(text, "q")) - 12 <= (octets + 2) // 3 * 4 else "b"
    words, pending = [], ""
    for character in text:
        if pending and len(word(pending + character, kind)) > rooms[min(len(words), 1)]:
            words.append(word(pending, kind))
            pending = ""
        pending += character
    found = _encoded_words(text, room)
    assert found == [*words, word(pending, kind)]
    line = "\r\n ".join(found)
    assert _older_text(line) == text == str(make_header(decode_header(line.replace("\r\n", ""))))


@with_examples
@given(header_text)
@settings(max_examples=150, deadline=None)
def test_any_display_name_stays_one_mailbox(text):
    name = re.sub(" {2,}", " ", text.strip())
    content = message(
        from_=Address("me@example.com", text),
        to=[Address("ann@example.com", text), Address("bob@example.com", text)],
        cc=Address("cy@example.com", text),
        reply_to=Address("re@example.com", text),
    ).as_bytes()
    assert_framing(content)
    assert_words(content)
    newer, older, rust = (
        parsed(content),
        email.message_from_bytes(content),
        fast_mail_parser.parse_email(content),
    )
    for header, specs, found in (
        ("From", ["me@example.com"], [rust.from_]),
        ("To", ["ann@example.com", "bob@example.com"], rust.to),
        ("Cc", ["cy@example.com"], rust.cc),
        ("Reply-To", ["re@example.com"], rust.reply_to),
    ):
        assert [a.addr_spec for a in newer[header].addresses] == specs
        pairs = [(old_text(n), spec) for n, spec in getaddresses([folded_back(older[header])])]
        assert pairs == [(name, spec) for spec in specs]
        assert [(a.display_name or "", a.address) for a in found] == pairs


@with_examples
@given(header_text)
@settings(max_examples=100, deadline=None)
def test_any_custom_header_value_adds_no_header(text):
    if not text.strip():
        return
    content = message(headers={"X-Note": text}).as_bytes()
    assert_framing(content)
    assert_words(content)
    names = [n.lower() for n in parsed(content).keys()]  # noqa: SIM118 - every occurrence
    assert sorted(names) == sorted({*names})
    assert "bcc" not in names
    wanted = re.sub(" {2,}", " ", text.strip())
    assert parsed(content)["x-note"] == wanted
    assert fast_mail_parser.parse_email(content).headers["X-Note"] == [wanted]


@example("A" * 56, "é" * 40)
@example("A" * 56, "😀")
@example("A" * 40, "x" * 900)
@given(name=st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=56), value=header_text)
@settings(max_examples=100, deadline=None)
def test_a_headers_name_may_be_long_and_still_no_line_is(name, value):
    if not value.strip():
        return
    content = message(headers={"X-" + name: value}).as_bytes()
    assert_framing(content)
    assert_words(content)
    assert " ".join(parsed(content)["X-" + name].split()) == " ".join(
        re.sub(" {2,}", " ", value.strip()).split()
    )


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
    other = fast_mail_parser.parse_email(content).text_plain
    assert (other[0] if other else "").replace("\r\n", "\n") == wanted


@given(body_text, st.sampled_from(["markdown", "html"]))
@settings(max_examples=100, deadline=None)
def test_text_comes_first_and_html_last_and_both_arrive(text, kind):
    """B10, with A1, A2 and A4, whatever stands in the body."""
    mail = message(body=text, format=kind)
    content = mail.as_bytes()
    assert_framing(content)
    assert max(map(len, content.split(b"\r\n"))) <= 78
    plain, html = parsed(content).iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    for part, meant in ((plain, mail.text), (html, mail.html)):
        lines = re.sub("\r\n|\r|\n", "\n", meant)
        assert part.get_payload(decode=True).decode().replace("\r\n", "\n").rstrip("\n") == lines.rstrip("\n")


@given(st.binary(max_size=600))
def test_quoted_printable_is_what_the_standard_says(data):
    text = data.replace(b"\r", b"").replace(b"\n", b"\r\n")
    coded = _quoted_printable(text)
    assert quopri.decodestring(coded.replace("\n", "\r\n").encode()) == text
    assert all(len(line) <= 76 for line in coded.split("\n"))
    assert not any(line.endswith((" ", "\t")) for line in coded.split("\n"))


file_name = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\"),
    min_size=1,
    max_size=60,
).filter(lambda n: n.strip() not in {"", ".", ".."})


@example("résumé ☃.pdf")
@example('a;b="c".pdf')
@example("=?utf-8?q?x?=.pdf")
@example("x" * 200 + ".bin")
@example("100%.txt")
@example("<x>")
@example('"quoted"')
@example("a;b.pdf")
@example("a'b''c.txt")
@example("utf-8''%41.txt")
@example("\u202efdp.exe")
@example("ä" * 100 + ".pdf")
@given(file_name)
@settings(max_examples=150, deadline=None)
def test_any_file_name_arrives_without_a_path(name):
    content = message(attach=[Attachment(b"\0\1data", name)]).as_bytes()
    assert_framing(content)
    if not name.isascii():
        assert b"filename*=utf-8''" in content
    (part,) = parsed(content).iter_attachments()
    assert part["content-disposition"].params["filename"] == name.strip()
    assert part.get_payload(decode=True) == b"\0\1data"
    (other,) = fast_mail_parser.parse_email(content).attachments
    assert (other.filename, other.content, other.disposition) == (name.strip(), b"\0\1data", "attachment")


@given(st.lists(st.binary(max_size=3000), max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_bytes_arrive_in_their_order(contents):
    files = [Attachment(data, f"{i}.bin") for i, data in enumerate(contents)]
    content = message(attach=files).as_bytes()
    assert_framing(content)
    for part in parsed(content).iter_attachments():
        assert all(len(line) <= 76 for line in part.get_payload().split("\n"))
    assert [p.get_payload(decode=True) for p in parsed(content).iter_attachments()] == contents
    assert [a.content for a in fast_mail_parser.parse_email(content).attachments] == contents


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
            {
                "format": "html",
                "body": '<img src="cid:logo.png" alt="">',
                "inline": [Attachment(PNG, "logo.png")],
            },
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
        format="html",
        body='<p><img src="cid:logo@x" alt="l"></p>',
        inline=[Attachment(PNG, "l.png", content_id="<logo@x>")],
    ).as_bytes()
    related = next(p for p in parsed(content).walk() if p.get_content_type() == "multipart/related")
    assert related.get_param("type") == "text/html"
    assert [p["content-id"] for p in related.iter_parts()][1] == "<logo@x>"


@pytest.mark.parametrize(
    ("src", "content_id"),
    [
        ('src="cid:logo@x"', "logo@x"),
        ("src=cid:logo@x", "logo@x"),
        ("src='CID:logo@x'", "logo@x"),
        ('src="cid:logo%40x"', "logo@x"),
        ('src="cid:a&amp;b"', "a&b"),
        ('style="background:url(&quot;cid:logo@x&quot;)"', "logo@x"),
        ('style="background:url(cid:logo@x)"', "logo@x"),
    ],
)
@pytest.mark.parametrize("field", ["inline", "attach"])
def test_a_shown_image_is_found_however_the_html_names_it(src, content_id, field):
    """B9: every ``cid:`` resolves, and what is shown stands beside the HTML."""
    image = Attachment(PNG, "l.png", content_id=content_id)
    content = message(format="html", body=f"<img {src} alt=''>", **{field: [image]}).as_bytes()
    assert tree(parsed(content)) == [
        "multipart/alternative",
        "text/plain",
        ["multipart/related", "text/html", "image/png"],
    ]
    (found,) = fast_mail_parser.parse_email(content).attachments
    assert (found.content_id, found.disposition, found.content) == (content_id, "inline", PNG)


@pytest.mark.parametrize(
    "body",
    [
        '<img src="cid:logo">',
        "<td background='cid:logo'>",
        '<p style="background:url(cid:logo)">x</p>',
        '<img\nalt="x" src = "cid:logo">',
    ],
)
def test_html_that_shows_an_image_which_is_not_there_is_refused(body):
    with pytest.raises(MessageError, match="cid:logo") as caught:
        message(format="html", body=body, inline=[Attachment(PNG, "other.png")]).as_bytes()
    assert "content_id='logo'" in caught.value.fix


@pytest.mark.parametrize(
    "body", ["<p>cid:logo is no image</p>", '<a href="cid:logo">x</a>', "<p>src=cid:logo</p>"]
)
def test_text_about_a_content_id_needs_no_image(body):
    assert tree(parsed(message(format="html", body=body).as_bytes()))[0] == "multipart/alternative"


def test_two_images_may_not_share_a_content_id_but_one_may_be_given_twice():
    body = '<img src="cid:p.png">'
    with pytest.raises(MessageError, match="Two files"):
        message(format="html", body=body, inline=[Attachment(PNG, "p.png"), Attachment(PNG + b"x", "p.png")])
    content = message(format="html", body=body, inline=[Attachment(PNG, "p.png")] * 2).as_bytes()
    assert len(fast_mail_parser.parse_email(content).attachments) == 1


def test_text_that_asks_for_no_encoding_travels_as_it_is():
    plain = b"a,b\r\n.dot\r\nFrom x\r\n"
    content = message(attach=[Attachment(plain, "x.csv", transfer_encoding="none")]).as_bytes()
    assert plain in content
    (part,) = parsed(content).iter_attachments()
    assert (part["content-transfer-encoding"], part.get_payload(decode=True)) == ("7bit", plain)


def test_the_parameters_of_a_media_type_arrive():
    invitation = Attachment("BEGIN:VCALENDAR\r\n", "i.ics", 'text/calendar; method=REQUEST; x="a b"')
    latin = Attachment("é".encode("latin-1"), "l.txt", "text/plain; charset=iso-8859-1")
    unknown = Attachment(b"\xe9", "u.txt")
    content = message(attach=[invitation, latin, unknown]).as_bytes()
    first, second, third = parsed(content).iter_attachments()
    assert dict(first["content-type"].params) == {"method": "REQUEST", "x": "a b", "charset": "utf-8"}
    assert second.get_content() == "é"
    assert dict(third["content-type"].params) == {}


def test_the_headers_are_each_there_once_and_bcc_is_not():
    content = message(
        cc="c@example.com", bcc="secret@example.com", reply_to="r@example.com", subject="S"
    ).as_bytes()
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


def test_smtputf8_is_needed_exactly_when_a_local_part_is_not_ascii():
    """C3: of any address, the receipt's too; an IDN domain alone needs none, for it has an A-label."""
    assert not message(to="Jörg <joerg@exämple.test>").smtputf8
    for field in ("to", "cc", "bcc", "reply_to", "from_", "read_receipt"):
        mail = message(**{field: "jörg@exämple.test"})
        assert mail.smtputf8
        content = mail.as_bytes()
        # A blind copy leaves no trace in the bytes, so these are ASCII.
        assert content.isascii() is (field == "bcc")
        assert b"=?" not in content.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    "spec",
    [
        '"a b"@example.com',
        '"a@b"@example.com',
        '"a,b"@example.com',
        '"a<b>"@example.com',
        r'"a\"b"@example.com',
        "ann@[127.0.0.1]",
        "ann@[IPv6:2001:db8::1]",
        "o'neil+tag{x}@example.com",
    ],
)
def test_odd_but_valid_addresses_arrive(spec):
    content = message(to=Address(spec, "Ann, B"), cc=spec).as_bytes()
    for header in ("to", "cc"):
        (found,) = parsed(content)[header].addresses
        assert found.addr_spec == spec


def test_an_address_that_a_reader_would_decode_is_refused_by_the_gate():
    """RFC 2047, 5 forbids encoded words in an addr-spec; the stdlib decodes them all the same."""
    with pytest.raises(MessageError, match="To"):
        message(to="=?utf-8?q?x?=@example.com").as_bytes()


@pytest.mark.parametrize(
    ("uri", "arrives"),
    [
        ("https://example.com/" + "a" * 900, True),
        ("https://example.com/u=?x=y", True),
        ("https://example.com/u?a=1,2&b=%20", True),
        ("https://example.com/=?utf-8?q?x?=", False),
        ("https://example.com/" + "a" * 990, False),
    ],
)
def test_an_unsubscribe_uri_arrives_as_it_is_or_not_at_all(uri, arrives):
    """Encoded words would make it a link that nobody can follow (RFC 2047, 5)."""
    mail = message(unsubscribe=uri)
    if not arrives:
        with pytest.raises(MessageError):
            mail.as_bytes()
        return
    content = mail.as_bytes()
    assert_framing(content)
    assert f"<{uri}>".encode() in content
    assert parsed(content)["list-unsubscribe"] == f"<{uri}>"


def test_references_are_never_encoded():
    ids = " ".join(f"<{i}.=?x?=@example.com>" for i in range(30))
    content = message(headers={"References": ids}).as_bytes()
    assert b"=?utf-8?" not in content
    with pytest.raises(MessageError, match="References"):
        message(headers={"References": "<é@example.com>"}).as_bytes()


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
        (b"<1@example.com>", b"<2@example.com>"),
        (b"hello\r\n", b"hello\n"),
        (b"hello\r\n", b"hello\r"),
        (b"hello", b"h\x08ello"),
        (b"hello", "héllo".encode()),
        (b"text/plain", b"text/html"),
        (b"utf-8", b"latin-1"),
        (b"me@example.com", b"you@example.com"),
        (b"Subject: hello\r\n", b""),
        (b"hi\r\n", b"hi\r\nmore\r\n"),
        (b"hi", b"x" * 999),
    ):
        assert content.replace(old, new, 1) != content
        with pytest.raises(MessageError):
            check_gate(content.replace(old, new, 1), draft)


def test_an_address_that_a_parser_fails_on_is_an_error_of_a_person():
    with pytest.raises(MessageError, match="cannot be read back|would read differently"):
        message(to="=?utf-8?q?=2C?=ann@example.com").as_bytes()


def test_the_gate_looks_at_every_part():
    image, file = Attachment(PNG, "l.png", content_id="l"), Attachment(b"abc", "ä.bin")
    mail = message(format="html", body='<img src="cid:l">', inline=[image], attach=[file]).stamped()
    content, draft = mail.as_bytes(), mail.draft()
    check_gate(content, draft)
    for old, new in (
        (b"image/png", b"image/gif"),
        (b"<l>", b"<m>"),
        (b"l.png", b"m.png"),
        (b"%C3%A4", b"%C3%B6"),
        (b"YWJj", b"YWJk"),
        (b"inline", b"attachment"),
    ):
        assert content.replace(old, new, 1) != content
        with pytest.raises(MessageError):
            check_gate(content.replace(old, new, 1), draft)
    start = content.rindex(b"--=_", 0, content.rindex(b"--=_"))
    with pytest.raises(MessageError, match="parts"):
        check_gate(content[:start] + content[content.rindex(b"--=_") :], draft)


def test_boundaries_are_not_made_from_what_is_sent():
    """Boundaries have 128 random bits, so no content can guess one."""
    mail = message(format="markdown", attach=[Attachment(b"x", "x")]).stamped()
    found = [re.findall(rb'boundary="(=_[0-9a-f]{32})"', mail.as_bytes()) for _ in range(2)]
    assert len({*found[0], *found[1]}) == 4


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=st.timezones()))
@settings(max_examples=60, deadline=None)
def test_any_moment_in_any_zone_arrives(moment):
    """B3: the Date parses and has a numeric zone."""
    content = message(date=moment).as_bytes()
    line = next(v for v in content.split(b"\r\n") if v.startswith(b"Date: "))
    assert re.search(rb" [+-]\d{4}$", line)
    # In UTC, for clocks that are set back show a moment twice.
    meant = moment.replace(microsecond=0).astimezone(dt.UTC)
    assert parsedate_to_datetime(line[6:].decode()).astimezone(dt.UTC) == meant
    assert fast_mail_parser.parse_email(content).date_parsed == meant


plain_words = st.text(string.ascii_letters + string.digits + string.punctuation + " é\t", max_size=70)


@given(
    subject=plain_words,
    name=st.text(string.ascii_letters + string.digits + " .,;'\"(<@é", max_size=40),
    local=st.from_regex(r"[A-Za-z0-9_+-]{1,20}(\.[A-Za-z0-9_+-]{1,9})?", fullmatch=True),
    text=st.text(max_size=200),
    seconds=st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_what_a_known_shape_lets_pass_would_pass_the_gate_and_another_parser(
    subject, name, local, text, seconds
):
    """Engine rule: a mail of a proven shape skips the gate; here each one goes through it all the same."""
    import datetime as dt

    from smtp_notebook import MessageError
    from smtp_notebook.mime import Draft, check_gate, new_message_id, to_bytes

    def draft(subject, name, local, text):
        return Draft(
            from_=Address("me@example.com", "Me"),
            to=(Address(f"{local}@example.com", " ".join(name.split())),),
            subject=" ".join(subject.split()),
            date=dt.datetime.fromtimestamp(seconds, dt.UTC),
            message_id=new_message_id("example.com"),
            text=text,
            html=f"<p>{text}</p>",
        )

    for display in ("", "Ann"):  # the shapes are proven first
        to_bytes(draft("Hello", display, "ann", "hello"))
    try:
        wanted = draft(subject, name, local, text)
        content = to_bytes(wanted)
    except MessageError:
        return
    check_gate(content, wanted)
    assert fast_mail_parser.parse_email(content).subject == wanted.subject


def test_a_known_shape_skips_the_gate_and_an_unusual_value_does_not(monkeypatch):
    from smtp_notebook import Message, mime

    through = []
    real = mime.check_gate
    monkeypatch.setattr(mime, "_PROVEN", mime._Shapes())
    monkeypatch.setattr(mime, "check_gate", lambda content, draft: (through.append(1), real(content, draft)))

    def build(**fields):
        through.clear()
        Message(
            **({"to": "ann@example.com", "from_": "me@example.com", "subject": "S", "body": "b"} | fields)
        ).as_bytes()
        return bool(through)

    build()
    assert not build(subject="Another plain one", to="bob@example.org", body="other words")
    for unusual in (
        {"subject": "=?utf-8?q?x?="},
        {"subject": "Zoë"},
        {"subject": "a, b"},
        {"to": "x <evil@example.net>"},
        {"to": '"a, b" <b@example.com>'},
        {"to": "a@example.com; b@example.com"},
        {"headers": {"X-Note": "new value"}},
        {"importance": "high"},
    ):
        assert build(**unusual), unusual
