"""Templates: values fill places, errors name line, row and column, nothing becomes markup."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from smtp_notebook import MailError, OptionError, Template, TemplateError
from smtp_notebook.bodies import looks_like_html
from smtp_notebook.template import is_missing

LETTER = """\
---
to: {{ Name }} <{{ Email }}>
from: Nora <nora@example.com>
subject: Welcome, {{ FirstName }}
X-Lead: {{ Id }}
---
Dear {{ FirstName }}, **thanks**.
{% if Phone %}
We call {{ Phone }}.
{% endif %}
"""
ROW = {"Name": "Ann Smith", "Email": "ann@example.com", "FirstName": "Ann", "Id": "00Q1", "Phone": None}


def test_head_and_body_make_a_message():
    message = Template(LETTER).fill(ROW)
    assert [str(a) for a in message.to] == ["Ann Smith <ann@example.com>"]
    assert str(message.from_) == "Nora <nora@example.com>"
    assert (message.subject, message.headers) == ("Welcome, Ann", (("X-Lead", "00Q1"),))
    assert message.text == "Dear Ann, **thanks**.\n"
    assert "Dear Ann, <strong>thanks</strong>." in message.html


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".md", "markdown"), (".html", "html"), (".htm", "html"), (".txt", "text")]
)
def test_a_files_suffix_is_its_format_and_its_folder_the_root(tmp_path, suffix, kind):
    path = tmp_path / f"welcome{suffix}"
    path.write_text("\ufeff---\nattach: a.txt\n---\n<b>{{ x }}</b>\r\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("a")
    template = Template(path)
    assert template.format == kind
    message = template.fill({"x": "1 & 2"})
    assert [a.name for a in message.attach] == ["a.txt"]
    assert Template(str(path)).format == kind
    if kind == "html":
        assert message.html.strip() == "<b>1 &amp; 2</b>"


def test_fields_given_in_python_win_over_the_head():
    template = Template(LETTER, subject="Other {{ Id }}", cc=["{{ Email }}", "c@example.com"])
    message = template.fill(ROW)
    assert message.subject == "Other 00Q1"
    assert [a.wire for a in message.cc] == ["ann@example.com", "c@example.com"]
    assert template.with_(subject="Third").fill(ROW).subject == "Third"
    assert template.fill(ROW).subject == "Other 00Q1"


BAD_TEMPLATES = [
    ("---\nsubjct: x\n---\nhi", "line 2", "'subject'"),
    ("---\nsubject: a\nsubject: b\n---\nhi", "line 3", "twice"),
    ("---\nsubject: a\nhi", "line 1", "second ---"),
    ("---\nwhat is this\n---\nhi", "line 2", "Name: value"),
    ("---\nbody: x\n---\nhi", "line 2", "cannot stand in the head"),
    ("hi\n\n{% if x %}", "line 3", "syntax"),
    ("---\nsubject: {{ x\n---\nhi", "line 2", "syntax"),
    ("hi\n{% include 'x' %}", "line 2", "include"),
    ("<p>hi</p>", "body", 'format="html"'),
    ("---\nformat: rtf\n---\nhi", "format", "markdown"),
    ("nowhere.md", "nowhere.md", "cannot be read"),
]


@pytest.mark.parametrize(("source", "place", "word"), BAD_TEMPLATES)
def test_a_bad_template_is_refused_when_it_is_made_with_its_line(source, place, word):
    with pytest.raises((TemplateError, OptionError)) as caught:
        Template(source)
    assert place in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ROWS = [
    ("{{ Phone }}", "'Phone' is empty", "default"),
    ("a\nb {{ Phone | upper }}", "body, line 2", "'Phone'"),
    ("{{ row['First Name'] }}", "'First Name' is empty", 'row["First Name"]'),
    ("{{ Frist }}", "'Frist'", "Did you mean 'First'?"),
    ("{{ row['Frist'] }}", "'Frist'", "Did you mean 'First'?"),
    ("{{ ''.__class__ }}", "not allowed", "__class__"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "not allowed", "__class__"),
    ("{{ 1 / 0 }}", "ZeroDivisionError", "body"),
    ("{{ First | nofilter }}", "nofilter", "syntax"),
    ("{{ Date | date }}", "ValueError", "line 1"),
    ("{% set x %}Dear {{ First }}{% endset %}{{ x | upper }}", "filter", "value itself"),
    ("[x]({{ Url }})", "javascript", "scheme"),
    ("nul {{ Nul }}", "NUL", "'Nul'"),
]
CELLS = {
    "First": "Ann", "First Name": None, "Phone": float("nan"), "Date": "yesterday", "Url": "javascript:alert(1)", "Nul": "a\0b",
}  # fmt: skip


@pytest.mark.parametrize(("source", "what", "step"), BAD_ROWS)
def test_a_row_that_does_not_fill_it_is_refused_with_line_and_column(source, what, step):
    with pytest.raises(TemplateError) as caught:
        Template(source).fill(CELLS)
    assert what in str(caught.value)
    assert step in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_names_the_line_in_the_file_not_in_the_body():
    with pytest.raises(TemplateError) as caught:
        Template(LETTER + "\n{{ Nothing }}\n").fill(ROW)
    assert caught.value.line == 12
    with pytest.raises(TemplateError) as caught:
        Template(LETTER).fill(ROW | {"Id": None})
    assert (caught.value.line, caught.value.column) == (5, "Id")


@pytest.mark.parametrize("value", [None, float("nan"), pd.NA, pd.NaT, Decimal("nan")])
def test_a_missing_cell_is_false_takes_default_and_is_never_printed(value):
    assert is_missing(value)
    cells = {"x": value}
    body = (
        "{% if x %}yes{% else %}no{% endif %} {{ x or 'or' }} {{ x | default('default') }} {{ x is defined }}"
    )
    assert Template(body).fill(cells).text == "no or default False"
    for printed in (
        "{{ x }}",
        "{{ x ~ 'a' }}",
        "{{ x | upper }}",
        "{{ [x] | join }}",
        "{{ x.y }}",
        "{{ x + 1 }}",
    ):
        with pytest.raises(TemplateError):
            Template(printed).fill(cells)


@pytest.mark.parametrize("value", ["", 0, False, "nan", pd.Timestamp("2026-01-01")])
def test_other_values_are_not_missing(value):
    assert not is_missing(value)


# ------------------------------------------------------------------------------------ header fields


def test_a_value_fills_its_slot_and_never_adds_a_recipient():
    row = ROW | {"Name": "x <evil@example.net>; Bob"}
    message = Template(LETTER).fill(row)
    assert message.recipients == ("ann@example.com",)
    assert message.to[0].display_name == "x <evil@example.net>; Bob"


@pytest.mark.parametrize(
    "cell",
    [
        "a@",
        "a@example.com, b@example.com",
        "a@example.com; b@example.com",
        "a@example.com\nBcc: x@example.com",
        "a b",
        "a@b@c",
        "x <a@example.com",
    ],
)
@pytest.mark.parametrize("field", ["{{ Email }}", "Ann <{{ Email }}>", "{{ Email }}; boss@example.com"])
def test_an_address_cell_holds_one_address(cell, field):
    with pytest.raises(MailError):
        Template("hi", to=field).fill({"Email": cell})


@pytest.mark.parametrize(
    "name", ["to", "cc", "bcc", "reply_to", "from_", "subject", "unsubscribe", "X-Note", "attach"]
)
def test_a_line_break_in_a_cell_is_refused_in_every_header(name):
    with pytest.raises(MailError) as caught:
        Template("hi", **{name: "{{ Cell }}"}).fill({"Cell": "a@example.com\r\nBcc: x@example.com"})
    assert "line break" in str(caught.value) or "control character" in str(caught.value)


def test_a_local_part_from_a_cell_cannot_bring_its_own_domain():
    with pytest.raises(MailError):
        Template("hi", to="{{ User }}@example.com").fill({"User": "evil@attacker.example>, <x"})


def test_lists_loops_and_empty_cells_in_address_fields():
    cells = {
        "Emails": ["a@example.com", "Bob <b@example.com>"],
        "Text": "c@example.com; d@example.com",
        "Boss": None,
    }
    message = Template(
        "hi",
        to="{{ Emails | addresses }}",
        cc="{% for e in Emails %}{{ e }};{% endfor %}",
        bcc="{{ Text | addresses }}, {{ Boss | default('') }}",
    ).fill(cells)
    assert [a.wire for a in message.to] == ["a@example.com", "b@example.com"]
    assert [a.wire for a in message.cc] == ["a@example.com", "b@example.com"]
    assert [a.wire for a in message.bcc] == ["c@example.com", "d@example.com"]


def test_an_attachments_path_is_filled_and_stays_in_its_folder(tmp_path):
    (tmp_path / "Energy.pdf").write_bytes(b"%PDF")
    template = Template("hi", attach="{{ Industry }}.pdf", attach_root=tmp_path)
    assert [a.name for a in template.fill({"Industry": "Energy"}).attach] == ["Energy.pdf"]
    for cell in ("../x", "/etc/passwd\0", "Steel"):
        with pytest.raises(MailError):
            template.fill({"Industry": cell})


def test_a_frame_cannot_stand_in_a_subject():
    with pytest.raises(TemplateError, match="DataFrame"):
        Template("hi", subject="{{ x }}").fill(None, values={"x": pd.DataFrame({"a": [1]})})


# --------------------------------------------------------------------------------------------- body


class Elements(HTMLParser):
    """Collects tags with their attributes and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data):
        self.text += data


anything = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=60)
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=1>',
    "]]>",
    "-->",
    "**bold** _it_ [x](javascript:1) `c` # h",
    "{{ 7*7 }}{% raw %}",
    "https://evil.example/x",
    "'\"&<>",
    "\u202eRTL",
    "&lt;b&gt;",
    "k123456789012",
]


def with_attacks(function):
    for text in ATTACKS:
        function = example(text)(function)
    return function


@pytest.mark.parametrize(
    "body",
    ["**Dear** {{ x }}, *hello* {{ x }}\n\n- {{ x }}\n\n| a |\n|---|\n| {{ x }} |", "# {{ x }}\n> {{ x }}"],
)
@with_attacks
@given(value=anything)
@settings(max_examples=60, deadline=None)
def test_no_value_becomes_markup_in_markdown(body, value):
    message = Template(body, format="markdown").fill({"x": value})
    plain = Template(body, format="markdown").fill({"x": "word"})
    tags = [t for t in Elements(message.html).tags if t != ("br", ())]
    assert tags == [t for t in Elements(plain.html).tags if t != ("br", ())]
    assert message.text == plain.text.replace("word", value)


HTML = '<p title="{{ x }}">{{ x }}</p><a href="https://example.com/p/{{ x }}?q={{ x }}">t</a><!-- {{ x }} -->'


@with_attacks
@given(value=anything)
@settings(max_examples=60, deadline=None)
def test_no_value_becomes_markup_in_html_and_text_arrives_as_it_was(value):
    found = Elements(Template(HTML, format="html").fill({"x": value}).html)
    assert [tag for tag, _ in found.tags] == ["p", "a"]
    assert dict(found.tags[0][1])["title"] == value
    assert found.text == value + "t"
    url = dict(found.tags[1][1])["href"]
    assert url.startswith("https://example.com/p/")
    assert not re.search(r"[\s\"'<>]", url)
    assert url.count("?") == 1


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " JaVaScript:x",
        "java\tscript:x",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
    ],
)
def test_a_cell_cannot_be_a_dangerous_link(url):
    for body, kind in (
        ("[x]({{ u }})", "markdown"),
        ('<a href="{{ u }}">x</a>', "html"),
        ('<a href=" {{ u }}">x</a>', "html"),
    ):
        with pytest.raises(TemplateError, match="scheme"):
            Template(body, format=kind).fill({"u": url})


def test_a_cell_can_be_a_link():
    message = Template("[offer]({{ u }})").fill({"u": "https://example.com/a?b=1&c=ü"})
    assert 'href="https://example.com/a?b=1&amp;c=%C3%BC"' in message.html
    assert message.text == "[offer](https://example.com/a?b=1&c=ü)"


@pytest.mark.parametrize(
    "body",
    [
        "<a href={{ x }}>t</a>",
        "<p {{ x }}>t</p>",
        "<{{ x }}>",
        "<script>var x = '{{ x }}'</script>",
        "<style>p { color: {{ x }} }</style>",
        '<p onclick="{{ x }}">t</p>',
        '<img srcset="{{ x }}">',
        '<iframe srcdoc="{{ x }}"></iframe>',
    ],
)
def test_places_that_no_escaping_makes_safe_are_refused(body):
    with pytest.raises(TemplateError):
        Template(body, format="html").fill({"x": "1"})


def test_a_style_takes_a_plain_value_only():
    template = Template('<p style="color: {{ c }}">x</p>', format="html")
    assert 'style="color: #fff"' in template.fill({"c": "#fff"}).html
    with pytest.raises(TemplateError, match="CSS"):
        template.fill({"c": "red; background: url(https://evil.example)"})


def test_outlooks_conditional_comments_are_filled_safely():
    body = '<!--[if mso]><a href="{{ u }}">{{ x }}</a><![endif]--><p>{{ x }}</p>'
    html = Template(body, format="html").fill({"u": "https://example.com", "x": "--><script>"}).html
    assert html.count("-->") == 1
    assert "<script" not in html


def test_text_that_is_said_to_be_html_is_taken_as_html():
    assert Template("<p>{{ x }}</p>", format="html").fill({"x": Markup("<b>y</b>")}).html == "<p><b>y</b></p>"


def test_objects_show_themselves_a_table_in_place_of_its_paragraph():
    frame = pd.DataFrame({"name": ["<b>", "ü"], "n": [1, 20_000]})
    message = Template("Look:\n\n{{ t }}\n\nEnd").fill(None, values={"t": frame})
    assert "&lt;b&gt;" in message.html
    assert not re.search(r"<p[^>]*>\s*<table", message.html)
    assert "name      n" in message.text
    assert message.inline == ()


def test_a_figure_is_an_inline_image_with_its_title_as_alt_text_once():
    figure, axes = plt.subplots()
    axes.set_title('Revenue "now"')
    message = Template("{{ f }}\n\n{{ f }}").fill(None, values={"f": figure})
    plt.close(figure)
    assert len(message.inline) == 1
    assert message.html.count(f"cid:{message.inline[0].content_id}") == 2
    assert 'alt="Revenue &quot;now&quot;"' in message.html
    assert '[Revenue "now"]' in message.text


class Shy:
    def _repr_html_(self):
        return '<div onclick="x()"><script>alert(1)</script><a href="javascript:x">l</a><b style="color:red">ok</b><form><input></form></div>'


def test_an_objects_own_html_is_cleaned():
    html = Template("{{ s }}").fill(None, values={"s": Shy()}).html
    body = html[html.index("<body") :]
    assert '<b style="color:red">ok</b>' in body
    assert not re.search(r"script|onclick|<form|<input", body)


def test_one_skeleton_is_converted_once_for_all_rows():
    template = Template("Dear {{ x }}{% if y %}, *yes*{% endif %}")
    for number in range(50):
        template.fill({"x": number, "y": number % 2})
    assert len(template._letters) == 2


def test_rows_do_not_leak_into_one_another():
    template = Template("{{ x }} {{ y | default('none') }}", subject="{{ x }}")
    first, second = template.fill({"x": "a", "y": "b"}), template.fill({"x": "c", "y": None})
    assert (first.text, second.text, second.subject) == ("a b", "c none", "c")


def test_values_that_print_oddly_are_noted():
    message = Template("{{ z }} {{ d }}").fill({"z": 94107.0, "d": dt.datetime(2026, 1, 2)})
    assert len(message.warnings) == 2
    assert "94107.0" in message.warnings[0]
    assert (
        Template("{{ z | number }} {{ d | date }}").fill({"z": 94107.0, "d": dt.datetime(2026, 1, 2)}).text
        == "94,107 02 January 2026"
    )


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'2026-11-02T14:03:21.000+0000' | date", "02 November 2026"),
        ("'2026-11-02' | date('%Y/%m')", "2026/11"),
        ("1234.5 | number", "1,234.5"),
        ("1234.567 | number(2)", "1,234.57"),
        ("1234.5 | money", "$1,234.50"),
        ("-3 | money('eur')", "-€3.00"),
        ("1234.5 | money('JPY')", "¥1,234"),
        ("7 | money('CHF')", "CHF 7.00"),
        ("[1, 'a'] ", "1, a"),
    ],
)
def test_filters(expression, text):
    assert Template(f"{{{{ {expression} }}}}", format="text").fill().text == text


@pytest.mark.parametrize(
    ("text", "is_html"),
    [
        ("<p>hi</p>", True),
        ("hi<br>there", True),
        ("<!DOCTYPE html>", True),
        ("a < b > c", False),
        ("see <https://example.com>", False),
        ("`<p>` is a tag", False),
        ("```\n<p>x</p>\n```", False),
        ("Dear <name>", False),
    ],
)
def test_what_plainly_is_html(text, is_html):
    assert looks_like_html(text) is is_html


# ------------------------------------------------------------------------- text that values stand in already

LINK = "[pay](https://example.test)"


@pytest.mark.parametrize(
    "expression",
    [
        "greeting ~ Name",
        "Name ~ greeting",
        "greeting + Name",
        "greeting % Name",
        "greeting.format(Name)",
        "'%s %s' | format(greeting, Name)",
        "greeting | replace('Dear', Name)",
        "[greeting, Name] | join",
        "[greeting, Name] | join | safe",
        "(greeting | string) ~ Name",
        "[greeting, Name]",
    ],
)
@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_a_value_that_is_joined_to_printed_text_never_becomes_markup(expression, kind):
    source = f"{{% set greeting %}}Dear {{}} %s {{{{ Other }}}} {{% endset %}}<{kind}: {{{{ {expression} }}}}"
    with pytest.raises(TemplateError, match=r"one after the other|one by one"):
        Template(source, to="a@example.com", format=kind).fill({"Name": LINK, "Other": "x"})


@pytest.mark.parametrize(
    "source",
    [
        "{% filter replace('X', Name) %}X{% endfilter %}",
        "{% set a | replace('X', Name) %}X{% endset %}{{ a }}",
    ],
)
def test_a_filter_around_a_block_takes_no_value(source):
    with pytest.raises(TemplateError, match="filter around a block"):
        Template(source, to="a@example.com")


def test_what_a_function_returns_to_a_call_block_is_refused():
    template = Template("{% call f() %}x{% endcall %}", to="a@example.com", format="html")
    with pytest.raises(TemplateError, match="macros alone"):
        template.fill({}, values={"f": lambda caller: f"<script>{caller()}</script>"})


def test_blocks_and_macros_print_what_they_are_given():
    source = (
        "{% macro a(x) %}[{{ x }}]{% endmacro %}{% macro b(x) %}({{ a(x) }}{{ caller() }}){% endmacro %}"
        "{% set s %} {{ Name }} {% endset %}{% set t = s %}"
        "{% call b(a(Name)) %}{{ s | trim }}{% endcall %}{{ t | trim | safe }}{{ a(Name) if Name else '' }}"
    )
    made = Template(source, to="a@example.com", format="html", theme="none").fill({"Name": "<b>"}).html
    assert "([[&lt;b&gt;]]&lt;b&gt;)&lt;b&gt;[&lt;b&gt;]" in made


def test_brackets_around_a_url_hide_no_scheme():
    template = Template('<a href="{{ a }}">x</a>', to="a@example.com", format="html")
    with pytest.raises(TemplateError, match="scheme"):
        template.fill({"a": "<javascript:alert(1)>"})


@pytest.mark.parametrize(
    ("first", "second"), [("java", "script:alert(1)"), ("", "javascript:alert(1)"), (" ", "data:text/html,x")]
)
def test_two_values_make_no_scheme_together(first, second):
    template = Template('<a href="{{ a }}{{ b }}">x</a>', to="a@example.com", format="html")
    (link,) = re.findall(r'href="([^"]*)"', template.fill({"a": first, "b": second}).html)
    assert ":" not in link
    usual = template.fill({"a": "https://example.com", "b": "/path/to?x"}).html
    assert 'href="https://example.com/path/to%3Fx"' in usual


def test_another_source_keeps_folder_name_format_values_and_fields(tmp_path):
    (tmp_path / "t.html").write_text("---\nto: a@example.com\n---\n<p>{{ v }}</p>")
    (tmp_path / "a.txt").write_text("x")
    old = Template(tmp_path / "t.html", values={"v": 1}, cc="c@example.com")
    new = old.with_source("---\nattach: a.txt\n---\n<b>{{ v }}</b>")
    message = new.with_(to="b@example.com").fill()
    assert (new.name, new.format, new.attach_root) == ("t.html", "html", tmp_path)
    assert "<b" in message.html
    assert message.recipients == ("b@example.com", "c@example.com")
    assert [a.name for a in message.attach] == ["a.txt"]
    assert old.with_source(old.source).fingerprint == old.fingerprint
    with pytest.raises(TemplateError, match=r"t\.html.*line 2"):
        old.with_source("ok\n{% if %}")


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ("{{ ', '.join(names) }}", "a, b"),
        ("{{ ', '.join(table.keys()) }}", "x, y"),
        ("{{ '-'.join([1, 2] | map('string')) }}", "1-2"),
        ("{{ ' '.join(series) }}", "p q"),
    ],
)
def test_a_text_joins_whatever_can_be_walked(body, made):
    values = {"names": ("a", "b"), "table": {"x": 1, "y": 2}, "series": pd.Series(["p", "q"])}
    assert Template(body=body, format="text").fill({"x": 1}, values=values).body.strip() == made
