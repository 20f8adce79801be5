"""The press: whichever way a row takes, its mail is the one-message builder's, octet by octet.

The reference is `Template.fill`, `Message` and `as_bytes`, which know nothing of molds. Both ways share their
encoder, so two parsers that are not ours judge what arrives as well.
"""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from test_mime import EVIL

from smtp_notebook import Connection, MailError, Template
from smtp_notebook.press import Press, refuse_leftover, stamp, with_sender

SERVER = Connection(host="mail.example.com", port=587, sender="sender@example.com")
MOMENT = dt.datetime(2026, 5, 4, 3, 2, 1, tzinfo=dt.UTC)
ID = "<0123456789abcdef.0123456789abcdef@example.com>"


def whole(template, cells, values=None):
    """The mail as the one-message builder makes it, or the error's text."""
    try:
        message = template.fill(cells, values=values)
        if not message.recipients:
            return "There is no recipient."
        message = with_sender(message, SERVER)
        refuse_leftover(message, template)
        message = message.with_(date=MOMENT, message_id=ID)
        return message, message.as_bytes()
    except MailError as error:
        return error.cause


def unbound(content):
    """The mail with its boundaries, which are random, counted."""
    for number, boundary in enumerate(re.findall(rb'boundary="(=_[0-9a-f]{32})"', content)):
        content = content.replace(boundary, b"=_%d" % number)
    return content


def content_of(printed):
    return stamp(ID, MOMENT) + b"".join(printed.chunks)


def assert_same(press, template, cells, values=None):
    """Print a row both ways, several times; return what was printed."""
    meant = whole(template, cells, values)
    for _ in range(3):
        try:
            printed = press.print(cells)
        except MailError as error:
            assert error.cause == meant
            return None
        message, content = meant
        assert unbound(content_of(printed)) == unbound(content)
        assert printed.recipients == message.recipients
        assert press.recipients(cells) == message.recipients
        assert printed.sender == message.from_.wire
        assert (printed.smtputf8, printed.warnings) == (message.smtputf8, message.warnings)
        assert printed.size == sum(map(len, printed.chunks))
        assert len(printed.digest) == 16
    return printed


# --------------------------------------------------------------------------------- any template, any row

NASTY = [
    *EVIL,
    "",
    " ",
    "Ann",
    "Ann Smith",
    "Zoë",
    "日本語" * 30,
    "x" * 90,
    "word " * 40,
    ".",
    ".dot",
    "From here",
    "trailing ",
    "tab\t",
    "two\nlines",
    "two\r\nlines",
    "a\rb",
    "\n",
    "\n.\nFrom x\n",
    "a--b",
    "-->",
    "a=b",
    "=20",
    "{",
    "{{ x }}",
    "{% if %}",
    "}}",
    "%s %d %%",
    "cid:logo",
    "cid",
    ":logo",
    "<b>&\"'",
    "https://example.com/?a=1&b=ü",
    "javascript:x",
    "nul\0",
    "\ud800",
    "\u2028",
    "\x01",
    "a.pdf",
    "ann@example.com",
    "ANN@Example.COM",
    "Ann <ann@example.com>",
    "a@example.com; b@example.com",
]
ADDRESSES = [
    "ann@example.com",
    "Bob@Example.org",
    "o'neil@example.com",
    "a.b+c@x-y.example.co",
    "jörg@example.com",
    "zoë@exämple.test",
]
anything = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec="utf-8"), max_size=120),
    st.text(st.sampled_from("ab .=-F\n<é"), max_size=200),
    st.integers(-5, 10**12),
    st.floats(allow_nan=True),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.datetimes(),
    st.dates(),
    st.none(),
    st.just(["list", 1]),
    st.just(Markup("<i>said to be HTML</i>")),
    st.just(Template),
)
words = st.sampled_from(["Ann", "Bob Ray", "Energy", "00Q0001", "7", "Zoë", "Acme Inc.", "a@b", "two\nlines"])
addresses = st.sampled_from([*["ann@example.com", "bob.b@example.org"] * 5, *ADDRESSES])
files = st.sampled_from(["a", "b"])
#: Rows are mostly usual, and then one or two of their cells are not.
ROWS = st.builds(
    lambda usual, unusual: usual | unusual,
    st.fixed_dictionaries(
        {
            "Name": words,
            "Email": addresses,
            "x": words,
            "y": words,
            "File": files,
            "Phone": st.sampled_from([None, "555 1234"]),
        },
        optional={"z": words},
    ),
    st.one_of(
        st.just({}),
        st.dictionaries(
            st.sampled_from(["Name", "x", "y", "x", "y", "Email", "Phone"]), anything, max_size=2
        ),
        st.fixed_dictionaries({"File": st.sampled_from(["none", "../a", "", 7])}),
    ),
)
TO = [
    "{{ Email }}",
    "{{ Name }} <{{ Email }}>",
    "Ann Lee <{{ Email }}>",
    '"Lee, {{ Name }}" <{{ Email }}>',
    "boss@example.com",
    "{{ Email }}; boss@example.com",
    "{{ x }}@example.com",
    "{% if y %}{{ Email }}{% endif %}",
    "{{ Email | addresses }}",
]
SUBJECTS = [
    "Hello",
    "Hello, {{ Name }}",
    "{{ x }}",
    "Größe {{ x }}",
    "{% if y %}Re: {% endif %}{{ Name }}",
    "=?utf-8?q?{{ x }}?=",
    "a long subject that goes on for quite a while, {{ Name }} " * 2,
    "",
    "{% set s = x %}{{ s }} {{ x }}",
]
HEAD = {
    "cc": [
        "{{ Email }}",
        "c@example.com; d@example.com",
        "{{ x }} <c@example.com>",
        "c@example.com; {{ Email }}",
    ],
    "bcc": ["{{ Email }}", "b@example.com", "b@example.com; {{ Email }}", "{{ Email | addresses }}"],
    "reply_to": ["{{ Name }} <{{ Email }}>", "r@example.com"],
    "from_": ["Zoë <me@example.com>", "me@example.com", "{{ Name }} <{{ Email }}>", "{{ Email }}"],
    "importance": ["high", "{{ 'low' if y else 'normal' }}", "{% if y %}low{% else %}normal{% endif %}"],
    "unsubscribe": [
        "https://example.com/u?id={{ x }}",
        "<https://example.com/u/{{ x }}>, <mailto:u@example.com>",
        "{{ y }}",
        "mailto:u@example.com?subject={{ x }}",
    ],
    "read_receipt": ["true", "{{ Email }}"],
    "X-Lead": ["{{ x }}", "lead {{ x }}/{{ y }}", "static", "a=b {{ x }}"],
    "X-Other": ["{{ y }}"],
    "attach": ["a.txt", "{{ File }}.txt", "a.txt; {{ File }}.txt", "{% if y %}b.txt{% endif %}", "logo.png"],
    "inline": ["logo.png"],
}
LINES = [
    "Dear {{ Name }},",
    "**{{ x }}** and *{{ y }}*",
    "{{ x }}",
    "{{ x }}{{ y }}",
    "a plain line of text",
    "a line with ümlauts and = signs",
    "{% if Phone %}call {{ Phone }}{% endif %}",
    "{% for c in [1, x] %}{{ c }} {% endfor %}",
    "see https://example.com/{{ x }}?q={{ y }}",
    "[offer](https://example.com/{{ x }})",
    "[link]({{ y }})",
    ". {{ x }}",
    "From {{ x }}",
    "cid:{{ x }}",
    "ci{{ x }}d:{{ y }}",
    "{{ z | default('none') }}",
    "{{ row['x'] }} {{ row.y }}",
    "{{ row | length }}",
    "{{ x | upper }} {{ y ~ x }}",
    "{% set t %}{{ x }}{% endset %}{{ t }}",
    "{% macro m(v) %}<{{ v }}>{% endmacro %}{{ m(x) }}",
    "long " * 30 + "{{ x }}" + " and long" * 20,
    "| a | b |\n|---|---|\n| {{ x }} | {{ y }} |",
    "{{ shared }} {{ twice(x) }}",
    "日本語 " * 20 + "{{ x }}",
    '<p title="{{ x }}" style="color: {{ y }}">{{ x }}</p>',
    '<a href="https://example.com/{{ x }}?q={{ y }}">{{ x }}</a>',
    "<!-- {{ x }} --><!--[if mso]><b>{{ x }}</b><![endif]-->",
    '<img src="cid:logo.png" alt="{{ x }}">',
    '<img alt="{{ x }}" title="cid:logo.png">',
    "<style>p { color: red }</style>",
    "{% raw %}{{ braces }}{% endraw %}",
    "{{ '{' }}{{ x }}",
    "",
]
bodies = st.lists(st.sampled_from(LINES), min_size=1, max_size=6).flatmap(
    lambda lines: st.sampled_from(["\n".join(lines) + "\n", "\n\n".join(lines), "\r\n".join(lines)])
)
heads = st.builds(
    lambda given, more: given | dict(more),
    st.fixed_dictionaries(
        {"to": st.sampled_from(TO[:2] * 4 + TO), "subject": st.sampled_from(SUBJECTS[:3] * 4 + SUBJECTS)}
    ),
    st.lists(st.sampled_from([(k, v) for k, found in HEAD.items() for v in found]), max_size=2),
)
VALUES = {"shared": "of all", "twice": lambda v: f"{v} {v}", "x": "from values"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    (place / "a.txt").write_text("text of a\n" * 50)
    (place / "b.txt").write_bytes(b"\xff\xfe binary")
    (place / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(90))
    return place


@given(
    body=bodies,
    kind=st.sampled_from(["markdown", "html", "text"]),
    head=heads,
    rows=st.lists(ROWS, min_size=1, max_size=5),
)
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_row_of_any_template_is_the_mail_of_the_one_message_builder(folder, body, kind, head, rows):
    try:
        template = Template("", body=body, format=kind, attach_root=folder, **head)
    except MailError:
        return
    press = Press(template, SERVER, values=VALUES)
    for cells in rows:
        assert_same(press, template, cells, VALUES)
