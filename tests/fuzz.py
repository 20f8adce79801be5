"""Properties that a fuzzer can try for an hour: ``python fuzz.py --seconds 3600``, or ``make fuzz``.

Each `Target` makes inputs and says what must hold of each. `test_fuzz` tries some of them on every run, the same
ones each time, and all that was found before. What a target finds is shown as hypothesis shrinks it; it then
belongs into the target's ``found``, with the mending.
"""

from __future__ import annotations

import argparse
import datetime as dt
import email
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email import policy
from email.utils import getaddresses
from typing import Any

import fast_mail_parser
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from smtp_notebook import Address, AddressError, Attachment, MailError, Message
from smtp_notebook.addresses import CONTROL, parse_addresses
from smtp_notebook.received import Received
from smtp_notebook.replies import Reply, ReplyError, ReplyReader
from smtp_notebook.slots import SCHEMES
from smtp_notebook.template import Template

#: Seconds of the processor that one input may take. What is linear takes milliseconds, what is quadratic minutes.
LONG = 20.0


@dataclass(frozen=True)
class Target:
    """What is fuzzed: how inputs are made, what must hold of each, and what was found before."""

    name: str
    inputs: st.SearchStrategy
    check: Callable[[Any], None]
    found: tuple[Any, ...] = field(default=())

    def run(self, examples, *, number=None, before=lambda: None):
        """Try so many inputs, and what was found; the same ones each time unless *number* says which."""

        def tried(value):
            before()
            begun = time.process_time()
            self.check(value)
            assert time.process_time() - begun < LONG, "it takes too long"

        test = given(self.inputs)(tried)
        for value in self.found:
            test = example(value)(test)
        checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]  # fmt: skip
        test = settings(
            max_examples=examples, deadline=None, database=None, derandomize=number is None,
            suppress_health_check=checks,
        )(test)  # fmt: skip
        (test if number is None else seed(number)(test))()


_PRINTED = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8)


def pieces(*words, most=12, kind=str):
    """Return texts that are made of *words* and of anything; most of them of what can be printed."""
    if kind is bytes:
        return st.lists(st.sampled_from(words) | st.binary(max_size=8), max_size=most).map(b"".join)
    printed = st.sampled_from([word for word in words if not CONTROL.search(word)]) | _PRINTED
    anything = st.sampled_from(words) | st.text(max_size=8)
    return st.one_of(
        *[st.lists(one, max_size=most).map("".join) for one in (printed, printed, printed, anything)]
    )


# ------------------------------------------------------------------------------------------ replies

_REPLY_WORDS = (
    b"250", b"250 ", b"250-", b"354 go", b"421 4.3.2 bye", b"550-5.1.1", b"550 5.1.1 no", b"\r\n", b"\r\n", b"\n", b"\r",
    b"25", b"2", b"-", b" ", b"999 x", b"\xff\xfe", b"\0", b"x" * 5_000, b"250-" + b"y" * 8_180, b"250-a\r\n" * 300,
)  # fmt: skip


def _reference(data):
    """Read replies another way, octet by octet: return those that are whole, and whether an error follows."""
    found, lines, code, line = [], [], None, bytearray()
    for octet in data:
        if octet != 0x0A:
            line.append(octet)
            continue
        text = bytes(line)
        while text.endswith(b"\r"):
            text = text[:-1]
        line.clear()
        digits = text[:3]
        valid = len(digits) == 3 and 0x31 <= digits[0] <= 0x35 and all(0x30 <= d <= 0x39 for d in digits[1:])
        if not valid or len(text) > 8192 or len(lines) == 512 or (lines and int(digits) != code):
            return found, True
        code = int(digits)
        goes_on = text[3:4] == b"-"
        lines.append(text[4:] if goes_on or text[3:4] == b" " else text[3:])
        if not goes_on:
            found.append((code, "\n".join(piece.decode("utf-8", "replace") for piece in lines)))
            lines = []
    return found, len(line) > 8192


def _read(parts):
    reader, found = ReplyReader(), []
    for part in parts:
        try:
            found += reader.feed(part)
        except ReplyError as error:
            assert "\n" not in str(error)
            return found + list(error.before), True
    return found, False


def replies_are_those_of_one_piece(parts):
    """Any segmentation of any octets gives what one piece gives, and what another reader gives."""
    whole = _read([b"".join(parts)])
    assert _read(parts) == whole
    assert _read([bytes([octet]) for octet in b"".join(parts)[:2_000]]) == _read([b"".join(parts)[:2_000]])
    expected, wrong = _reference(b"".join(parts))
    assert whole == ([Reply(code, text) for code, text in expected], wrong)


# ---------------------------------------------------------------------------------------- addresses

_ADDRESS_WORDS = (
    "ann", "@", "example.com", "example.test", "<", ">", '"', "\\", ",", ";", ":", "(", ")", "[", "]", ".", " ", "\t", "\r\n",
    "Bcc: ", "=?utf-8?q?=2C?=", "=?utf-8?b?", "?=", "é", "ß", "\u0301", "\u202e", "\u3002", "xn--", "-", "[127.0.0.1]", "IPv6:::1",
    "\ud800", "\0", "x" * 64, "evil@example.org", "ann@example.com",
)  # fmt: skip


_plain_locals = st.from_regex(r"[a-z0-9.+_'-]{1,8}|\"[ -~]{0,8}\"|[\u00e0-\u00ff]{1,4}", fullmatch=True)
_domains = st.sampled_from(
    ["example.com", "EXAMPLE.org", "ex\u00e4mple.test", "[127.0.0.1]", "localhost", "xn--exmple-cua.test"]
)
_addresses = st.one_of(
    pieces(*_ADDRESS_WORDS),
    st.builds("{} <{}@{}>".format, pieces(*_ADDRESS_WORDS, most=5), _plain_locals, _domains),
    st.builds('"{}" <{}@{}>'.format, pieces(*_ADDRESS_WORDS, most=5), _plain_locals, _domains),
    st.builds("{}@{}".format, pieces(*_ADDRESS_WORDS, most=3), _domains),
)


def an_address_or_an_error(text):
    """Whatever is parsed is one Address, which writes and reads itself, or an AddressError."""
    try:
        address = Address.parse(text)
    except AddressError as error:
        assert "\n" not in str(error)
        return
    assert Address.parse(str(address)) == address
    assert Address.parse(address.wire).wire == address.wire
    assert address.wire.rpartition("@")[2].isascii()
    assert not re.search(r"[\x00-\x1f\x7f]", address.wire)
    assert [a.wire for a in parse_addresses(f"{address}; bob@example.com")] == [
        address.wire,
        "bob@example.com",
    ]
    try:
        content = Message(to=address, from_="me@example.com", subject="s", body="b").as_bytes()
    except MailError:
        return  # the gate: a reader would take it for something else
    names = [n.lower() for n in email.message_from_bytes(content)]
    assert len(names) == len(set(names))
    assert "bcc" not in names
    if not address.needs_smtputf8:
        (line,) = email.message_from_bytes(content).get_all("to")
        lenient = {"strict": False} if hasattr(email.utils, "supports_strict_parsing") else {}
        assert [spec for _, spec in getaddresses([line.replace("\r\n", "")], **lenient)] == [address.wire]
        newer = email.message_from_bytes(content, policy=policy.default)
        assert [a.addr_spec for a in newer["to"].addresses] == [address.wire]


def a_list_of_addresses_or_an_error(parts):
    """Time is linear in the text, however often a piece of it comes again."""
    text, times = parts
    try:
        parse_addresses(text * times)
    except AddressError:
        return


# ---------------------------------------------------------------------------------------- templates

_TEMPLATE_WORDS = (
    "---\n", "to: ", "subject: ", "attach: ", "theme: none\n", "preheader: ", "unsubscribe: <https://example.com/{{ Id }}>\n",
    "{{ Name }}", "{{", "}}", "{%", "%}", "{#", "#}", "{% for x in [1, 2] %}", "{% endfor %}", "{% if Name %}", "{% endif %}", "{% set y %}",
    "{% endset %}", "{% macro m(a) %}", "{% endmacro %}", "{{ m(1) }}", "{{ loop.index }}", "{% raw %}", "{% endraw %}", "{% call m(1) %}",
    "{% endcall %}", "{% filter upper %}", "{% endfilter %}", "{% block b %}", "{% endblock %}", "{% with z = Name %}", "{% endwith %}", "-%}",
    "{{ Name | safe }}", "{{ Name ~ y }}", "{{ y }}", "{{ 10**5000 }}", "{{ Name | date }}", "{{ Amount | money }}", "{{ row['Name'] }}", "{{ self }}",
    "<p>", "</p>", '<a href="', '">', "<!--", "-->", "<style>", "</style>", "<script>", "<img src=x ", "<table><tr><td>", "![x](", "[x](", ")",
    "**", "`", "\n\n", "# ", "> ", "- ", "|---|\n", "&amp;", "\0", "\x1e", "\ud800", "ann@example.com", "\n",
)  # fmt: skip
_ROW = {"Name": "Ann", "Amount": 12.5, "Id": "x1", "Email": "ann@example.com"}


def a_message_or_a_mail_error(given_text):
    """A text is a Template or an error of a person, and so is what a row makes of it."""
    text, kind = given_text
    try:
        Template(text, format=kind).fill(_ROW)
    except MailError as error:
        assert str(error)


_names = st.sampled_from(
    [
        "Name",
        "'ab'",
        "['a']",
        "3",
        "99999",
        "10**9",
        "range(99999)",
        "ns.x",
        "('x' * 9999)",
        "1.5",
        "{'a': 1}",
    ]
)
_operators = st.sampled_from(
    [
        "{} + {}",
        "{} * {}",
        "{} ** {}",
        "{} % {}",
        "{} ~ {}",
        "[{}, {}]",
        "{} in {}",
        "{} == {}",
        "{} if {} else 1",
    ]
)
_applied = st.sampled_from([
    "({}) | center({})", "({}) | join({})", "({}) | replace('a', {})", "({}) | indent({})", "({}) | batch({}) | list", "({}) | slice({}) | list",
    "({}) | list | string", "({}) | map('string') | list", "({}) | sum(start={})", "({}) | round({})", "({}) | wordwrap({})", "({}) | tojson({})",
    "({}) | pprint", "'%s' % ({})", "'%*d' % ({}, {})", "'{{:{{}}}}'.format({}, {})", "({}).center({})", "({}).join({})", "({}).replace('a', {})",
    "({}).zfill({})", "({}).split({})", "dict(a={}, b={})", "lipsum(n={})", "({}) | urlize", "({}) | striptags", "({}) | number({})", "({}) | int({})",
    "({}) | upper", "({}) | length", "({}).format({})", "({}) | format({})", "({}) | xmlattr", "({}) | truncate({})", "({}) | filesizeformat",
])  # fmt: skip
_expressions = st.recursive(
    _names,
    lambda inner: st.tuples(_operators | _applied, inner, inner).map(
        lambda parts: f"({parts[0].format(parts[1], parts[2])})"
    ),
    max_leaves=6,
)
_NAMESPACE = "{% set ns = namespace(x='ab') %}"
_loops = st.sampled_from([
    "{{{{ {} }}}}", "{{% for i in range(99999) %}}{{{{ {} }}}}{{% endfor %}}", "{{% for i in {} %}}{{{{ i }}}}{{% endfor %}}",
    "{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% endfor %}}{{{{ ns.x }}}}",
    "{{% for i in range(999) %}}{{% for j in {} %}}x{{% endfor %}}{{% endfor %}}",
])  # fmt: skip


def bounded_time_and_memory(text):
    """Whatever an expression asks for, a mail or an error comes soon."""
    try:
        Template(text, format="text").fill(_ROW)
    except MailError as error:
        assert "MemoryError" not in str(error)


# -------------------------------------------------------------------------------------------- cells

_CELL_WORDS = (
    "<", ">", '"', "'", "&", "<script>alert(1)</script>", "javascript:", "java\tscript:", "data:text/html,", "vbscript:", "//evil.example",
    "https://evil.example/", "--><b>", "]]>", "{{ 7*7 }}", "{% raw %}", "**b**", "[x](javascript:1)", "\n\n# h", "\r\n", "\nBcc: evil@example.org", "`",
    "|", "onload=1", "style=x", "</p>", "&#106;avascript:", "%0d%0a", "\u2028", "\x1e", "\0", "\ud800", "k123456789012", "=?utf-8?q?=0ABcc:_x?=",
    ", evil@example.org", "; evil@example.org", "<evil@example.org>", "\u202e", "\x0b", "\x85", ":", "/", "?", "#",
)  # fmt: skip
_PLACES = {
    "markdown": """---
to: {{ cell }} <ann@example.com>
subject: Hi {{ cell }}
reply_to: "{{ cell }}" <re@example.com>
x-note: {{ cell }}
preheader: {{ cell }}
unsubscribe: <https://example.com/{{ cell }}>
---
# {{ cell }}

Dear **{{ cell }}** [link](https://example.com/{{ cell }}?q={{ cell }}) `{{ cell }}`

| {{ cell }} |
|---|
| {{ cell }} |

> {{ cell }}
""",
    "html": """---
to: ann@example.com
subject: {{ cell }}
---
<p title="{{ cell }}" style="color: red">{{ cell }}</p><!-- {{ cell }} --><a href="https://example.com/{{ cell }}?x={{ cell }}#{{ cell }}">t</a>
<!--[if mso]><b>{{ cell }}</b><![endif]--><img alt='{{ cell }}' src="https://example.com/{{ cell }}.png">
""",
    "link": "---\nto: ann@example.com\nsubject: s\n---\n<a href=\"{{ cell }}\">t</a><img src='{{ cell }}/x'>",
    "text": "---\nto: ann@example.com\nsubject: s\n---\nDear {{ cell }}: https://example.com/{{ cell }}?{{ cell }}",
}
_TEMPLATES = {
    name: Template(text, format="html" if name == "link" else name, from_="me@example.com")
    for name, text in _PLACES.items()
}


def _shape(message):
    """Return the elements of a mail's HTML with the names of their attributes, as lxml reads it."""
    root = lxml_html.document_fromstring(message.html or "<p>")
    return [(e.tag, tuple(sorted(e.keys()))) for e in root.iter() if isinstance(e.tag, str) and e.tag != "br"]


_HARMLESS = {name: template.fill({"cell": "x"}) for name, template in _TEMPLATES.items()}


def a_cell_is_only_a_value(cell):
    """No cell becomes markup, a header, a recipient or another scheme, wherever it stands."""
    for name, template in _TEMPLATES.items():
        try:
            message = template.fill({"cell": cell})
            content = message.as_bytes()
        except MailError:
            continue
        plain = _HARMLESS[name]
        assert [a.wire for a in message.to] == ["ann@example.com"]
        assert _shape(message) == _shape(plain), name
        headers = sorted(email.message_from_bytes(plain.as_bytes()).keys())
        assert sorted(email.message_from_bytes(content).keys()) == headers
        links = lxml_html.document_fromstring(message.html or "<p>").xpath("//@href | //@src")
        for link in links:
            scheme = re.match(r"[\x00-\x20]*([a-zA-Z][a-zA-Z0-9+.-]*):", link)
            assert scheme is None or scheme[1].lower() in SCHEMES, link
            if name != "link":
                assert link.startswith("https://example.com/") or "{" not in link


# --------------------------------------------------------------------------------------------- MIME

_HEADER_WORDS = (
    "=?utf-8?q?", "?=", "=?", "=0D=0A", "Bcc: x@example.org", ",", ";", ":", "<", ">", "@", '"', "\\", "(", ")", " ", "  ", "é", "日本", "👩‍👧", "x" * 80,
    "\u202e", "\u00a0", "From ", ".", "--", "\ufeff", "e\u0301", "%0a",
)  # fmt: skip
_BODY_WORDS = (
    "\n.",
    "\r\n",
    "\n",
    "\r",
    "\nFrom ",
    " \n",
    "\t",
    "=",
    "=3D",
    "é",
    "x" * 2_000,
    "--=_",
    "\u2028",
    "\0",
    "<b>",
    "&",
    "\x0b",
    "\ud800",
)
_mails = st.fixed_dictionaries({
    "subject": pieces(*_HEADER_WORDS),
    "name": pieces(*_HEADER_WORDS, most=6),
    "body": pieces(*_BODY_WORDS),
    "file": pieces(*_HEADER_WORDS, "/", "\\", "..", ".txt", most=6),
    "content": st.binary(max_size=400),
    "format": st.sampled_from(["text", "html", "markdown"]),
})  # fmt: skip


def a_mail_arrives_as_it_was_meant(parts):
    """Two parsers that do not know each other read back what was meant, or the mail is refused."""
    try:
        attachment = Attachment(parts["content"], name=parts["file"], type="application/x-fuzz")
        to = Address("ann@example.com", parts["name"])
        message = Message(
            to=to, from_="me@example.com", subject=parts["subject"], body=parts["body"], format=parts["format"],
            attach=[attachment], date=dt.datetime(2026, 11, 24, tzinfo=dt.UTC),
        )  # fmt: skip
        content = message.as_bytes()
    except MailError:
        return
    assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert content.isascii()
    rust = fast_mail_parser.parse_email(content)
    newer = email.message_from_bytes(content, policy=policy.default)
    assert rust.subject == str(newer["subject"]) == message.subject
    assert [a.addr_spec for a in newer["to"].addresses] == ["ann@example.com"]
    assert [a.address for a in rust.to] == ["ann@example.com"]
    (file,) = rust.attachments
    assert (file.filename, bytes(file.content)) == (attachment.name, parts["content"])
    parsed = [p for p in newer.walk() if p.get_content_type() == "application/x-fuzz"]
    assert [p.get_payload(decode=True) for p in parsed] == [parts["content"]]

    def lines(text):
        return re.sub(r"\r\n|\r", "\n", text).rstrip("\n")

    assert lines(newer.get_body(("plain",)).get_content()) == lines(message.text)
    if message.html is not None:
        assert lines(newer.get_body(("html",)).get_content()) == lines(message.html)
        assert lines(rust.text_html[0]) == lines(message.html)
    arrived = Received(content, "me@example.com", ("ann@example.com",), dt.datetime.now(dt.UTC))
    assert arrived.subject == message.subject
    assert [f[2] for f in arrived.files()] == [parts["content"]]


# ----------------------------------------------------------------------------------------- received

_RAW_WORDS = (
    b"Subject: ", b"From: ann@example.com\r\n", b"To: ", b"Content-Type: ", b"text/html", b"text/plain; charset=", b"utf-16", b"utf-7", b"idna", b"rot13", b"klingon",
    b"multipart/mixed; boundary=b\r\n\r\n--b\r\n", b"--b\r\n", b"--b--\r\n", b"multipart/alternative", b"message/rfc822\r\n\r\n", b"message/delivery-status\r\n\r\n",
    b"Content-Transfer-Encoding: base64\r\n", b"quoted-printable\r\n", b"uuencode\r\n", b"x-uue\r\n\r\nbegin 644 x\r\n", b"Content-Disposition: attachment; filename",
    b"*0*=", b"=", b"*=utf-8''%ff%00", b"\r\n", b"\r\n\r\n", b"\n", b"\n\n", b"\r", b"=?utf-8?q?", b"=?utf-8*en?b?", b"?=", b"<style>", b"<style media='", b"<img src='cid:x'>",
    b"<img src=//evil.example>", b"Content-ID: <x>\r\n", b"\xff\xfe", b"\0", b";", b'"', b"\\", b"(", b"x" * 1_000, b" ", b"\t", b"begin 644 \r\n", b"charset*=", b"''",
)  # fmt: skip


def whatever_arrives_is_shown(parts):
    """No octets make a look at a mail raise, or give a text that cannot travel to a browser."""
    text, times = parts
    mail = Received(text * times, "", ("ann@example.com",), dt.datetime.now(dt.UTC))
    view = mail.view()
    said = [
        view.page,
        view.text,
        *view.notes,
        *(t for pair in view.headers for t in pair),
        mail.subject,
        mail.searched,
    ]
    said += [mail.body("html", "plain"), mail.header("to"), *(t for pair in mail.headers() for t in pair)]
    said += [t for name, kind, _, cid in mail.files() for t in (name, kind, cid)]
    "".join(said).encode("utf-8")


_often = st.sampled_from([1, 1, 1, 2, 50, 3_000])

TARGETS = [
    Target("replies", st.lists(pieces(*_REPLY_WORDS, kind=bytes, most=6), max_size=6), replies_are_those_of_one_piece),
    Target("addresses", _addresses, an_address_or_an_error, found=("=?utf-8?q?=2C?=ann@example.com",)),
    Target("address lists", st.tuples(pieces(*_ADDRESS_WORDS, most=4), _often), a_list_of_addresses_or_an_error),
    Target("templates", st.tuples(pieces(*_TEMPLATE_WORDS, most=16), st.sampled_from(["markdown", "html", "text"])), a_message_or_a_mail_error, found=(("---\n---\n\ud800", "markdown"), ("{{ 10**5000 }}", "text"))),
    Target("bounds", st.builds(lambda loop, inner: _NAMESPACE + loop.format(inner), _loops, _expressions), bounded_time_and_memory),
    Target("cells", pieces(*_CELL_WORDS, most=6), a_cell_is_only_a_value),
    Target("mime", _mails, a_mail_arrives_as_it_was_meant),
    Target("received", st.tuples(pieces(*_RAW_WORDS, kind=bytes), _often), whatever_arrives_is_shown),
]  # fmt: skip
#: How many inputs of each target an ordinary run of the tests tries; a slow one is tried less.
EXAMPLES = {
    "replies": 150,
    "addresses": 200,
    "address lists": 60,
    "templates": 100,
    "bounds": 15,
    "cells": 40,
    "mime": 60,
    "received": 80,
}


def main():
    """Try every target for its share of the seconds, and print how many inputs each was given."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3600)
    options.add_argument(
        "--seed", type=int, default=0, help="where the numbers begin; another one, other inputs"
    )
    options.add_argument("targets", nargs="*")
    given_options = options.parse_args()
    chosen = [t for t in TARGETS if not given_options.targets or t.name in given_options.targets]
    failed = False
    for target in chosen:
        count, number, begun = 0, given_options.seed, time.monotonic()
        slowest, last = 0.0, begun

        def before():
            nonlocal count, slowest, last
            now = time.monotonic()
            count, slowest, last = count + 1, max(slowest, now - last), now

        try:
            while time.monotonic() - begun < given_options.seconds / len(chosen):
                target.run(500, number=number, before=before)
                number += 1
                last = time.monotonic()
        except BaseException as error:  # what was found is shown, and the next target is tried
            if isinstance(error, KeyboardInterrupt):
                raise
            failed = True
            print(f"{target.name}: FOUND after {count:,} inputs (seed {number}):\n{error!r:.2000}")
            print("\n".join(getattr(error, "__notes__", ())), flush=True)
            continue
        seconds = time.monotonic() - begun
        print(
            f"{target.name}: {count:,} inputs in {seconds:.0f} s, the slowest took {slowest:.2f} s",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
