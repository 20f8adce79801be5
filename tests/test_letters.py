"""The letter around a text: its theme, the line beside the subject, its footer, and what is left alone."""

from __future__ import annotations

import re

import pytest

from smtp_notebook import Connection, Message, MessageError, OptionError, Template, TemplateError, mail_merge
from smtp_notebook.bodies import html_to_text
from smtp_notebook.preflight import Planned
from smtp_notebook.press import Press

HEAD = "---\nto: {{ Email }}\nfrom: me@example.com\nsubject: Hi\nunsubscribe: https://example.com/u/{{ Token }}\npreheader: For {{ Name }}\n---\n"
ROW = {"Email": "ann@example.com", "Token": "a/c", "Name": "Ann <Lee>"}
NOWHERE = Connection(host="localhost", port=25)


def test_a_text_gets_a_letter_with_its_styles_in_attributes():
    message = Message(to="ann@example.com", body="# Hi\n\n[a](https://example.com)")
    assert re.search(r'<h1 style="[^"]*font-size: 26px', message.html)
    assert re.search(r'<a href="https://example.com" style="color: #0a58ca', message.html)
    assert message.html.count("<style") == 2, "the dark colours, and Outlook's"
    assert "prefers-color-scheme:dark" in message.html
    assert "preheader" not in message.html
    assert "Unsubscribe" not in message.html


def test_the_footer_links_to_where_one_unsubscribes_and_so_does_the_text():
    message = Message(
        to="a@example.com", body="Hi", unsubscribe=["mailto:off@example.com", "https://example.com/u?a=1&b=2"]
    )
    assert 'href="https://example.com/u?a=1&amp;b=2"' in message.html
    assert message.text == "Hi\n\n-- \nUnsubscribe: https://example.com/u?a=1&b=2\n"
    assert (
        "mailto:off@example.com"
        in Message(to="a@example.com", body="Hi", unsubscribe="mailto:off@example.com").html
    )


def test_a_row_fills_what_stands_around_its_text():
    message = Template(HEAD + "Dear {{ Name }}").fill(ROW)
    assert 'href="https://example.com/u/a/c"' in message.html
    assert "For Ann &lt;Lee&gt;" in message.html
    assert "Unsubscribe: https://example.com/u/a/c" in message.text
    assert message.body == "Dear Ann <Lee>", "the body alone, so that it can be dressed again"
    assert message.preheader == "For Ann <Lee>"
    again = message.with_(theme="none")
    assert "Unsubscribe" not in again.html + again.text


@pytest.mark.parametrize(
    ("body", "preheader", "shown"),
    [
        ("Hi{% if Name %} you{% endif -%}", "P", "Hi you"),
        ("Hi {{ Name -}}", "P", "Hi Ann"),
        ("Hi\n", "{% if Name %}P{% endif %}", "Hi"),
        ("Hi\n", "{{- 'P' }}", "Hi"),
        ("Hi", "{{ 'P' -}}", "Hi"),
        ("{% set Name = 'Bo' %}Hi {{ Name }}", "{{ 'P' if Name == 'Ann' }}", "Hi Bo"),
        ("Hi {{ Name }}", "{% set Name = 'P' %}{{ Name }}", "Hi Ann"),
    ],
)
def test_what_stands_around_a_text_is_apart_from_it(body, preheader, shown):
    """No trimming and no name of one reaches the other, and the footer leads to where it should."""
    template = Template(
        body,
        to="a@example.com",
        preheader=preheader,
        unsubscribe="https://example.com/u",
        theme="[{{ preheader }}]{{ content }}<a href='{{ unsubscribe }}'>off</a>",
    )
    message = template.fill({"Name": "Ann"})
    assert message.html == f"[P]<p>{shown}</p>\n<a href='https://example.com/u'>off</a>"
    assert message.text == f"{shown}\n\n-- \nUnsubscribe: https://example.com/u\n"
    assert message.preheader == "P"


@pytest.mark.parametrize(
    "url", ["<https://example.com/?a=1>", "https://example.com/?a=1", " <https://example.com/?a=1> "]
)
def test_a_cell_with_where_to_unsubscribe_may_have_its_brackets(url):
    template = Template("Hi", to="a@example.com", unsubscribe="{{ Url }}")
    assert '<a href="https://example.com/?a=1"' in template.fill({"Url": url}).html


def test_a_comment_that_is_left_open_is_an_error_and_ends_in_no_preheader():
    with pytest.raises(TemplateError, match="end of comment"):
        Template("Hi {# there", to="a@example.com", preheader="a #} b")


def test_a_preheader_is_hidden_and_no_part_of_the_text():
    message = Message(to="a@example.com", body="Hi", preheader="Look <here>")
    assert re.search(r'<div class="preheader" style="display: none[^"]*">Look &lt;here&gt;', message.html)
    assert "Look" not in message.text
    assert "Look" not in html_to_text(message.html)
    with pytest.raises(MessageError, match="line break"):
        Message(to="a@example.com", body="Hi", preheader="a\nb")
    with pytest.raises(TemplateError, match="preheader"):
        Template(HEAD + "x").fill({**ROW, "Name": "a\nb"})


def test_a_theme_of_ones_own_is_a_small_file(tmp_path):
    (tmp_path / "ours.html").write_text(
        "<html><head><style>p{color:#112233}</style></head><body>{{ content }}"
        "{% if unsubscribe %}<a href='{{ unsubscribe }}'>off</a>{% endif %}<!-- {{ preheader }} --></body></html>"
    )
    (tmp_path / "mail.md").write_text(
        HEAD.replace("---\n\n", "").replace("preheader", "theme: ours.html\npreheader") + "Dear {{ Name }}"
    )
    message = Template(tmp_path / "mail.md").fill(ROW)
    assert '<p style="color: #112233' in message.html
    assert "Dear Ann &lt;Lee&gt;" in message.html
    assert 'href="https://example.com/u/a/c">off' in message.html
    assert repr(message.theme) == "<Theme ours.html>"
    given = Message(to="a@example.com", body="**x**", theme="<main>{{ content }}</main>")
    assert given.html == "<main><p><strong>x</strong></p>\n</main>"


def test_no_theme_is_the_bare_text():
    for theme in ("none", False):
        message = Message(to="a@example.com", body="**x**", theme=theme)
        assert "<style" not in message.html
        assert "<p><strong>x</strong></p>" in message.html
    assert Message(to="a@example.com", body="x", theme="letter") == Message(to="a@example.com", body="x")


@pytest.mark.parametrize(
    ("theme", "said"),
    {
        "no file": ("nowhere.html", "cannot be read"),
        "a name that is not there": ("{{ content }}{{ footer }}", "'footer' is undefined"),
        "a mistake": ("{{ content }}{% if %}", "line 1"),
        "without the text": ("<p>{{ preheader }}</p>", "does not show the text"),
        "a sum": ("{{ content }}{{ 1 // 0 }}", "division"),
        "what no template may do": ("{{ content }}{{ ''.__class__.__mro__ }}", "unsafe"),
        "no text": (3, "is no theme"),
    }.values(),
)
def test_a_theme_that_does_not_do_is_refused_with_the_reason(theme, said):
    with pytest.raises(MessageError, match=said):
        Message(to="a@example.com", body="x", theme=theme)
    with pytest.raises(MessageError, match=said):
        Template("x", to="a@example.com", theme=theme).fill()


def test_html_of_a_persons_own_is_not_rewritten():
    plain = "<!-- kept --><P CLASS=x>a  b<br></P>\n<table><tr><td>1</table>"
    message = Message(
        to="a@example.com", body=plain, format="html", unsubscribe="https://example.com/u", preheader="x"
    )
    assert message.html == plain
    styled = "<style>p{color:red}</style><p>a</p>"
    assert 'style="color: red' in Message(to="a@example.com", body=styled, format="html").html
    assert Message(to="a@example.com", body=styled, format="html", inline_css=False).html == styled
    assert Template(styled, to="a@example.com", format="html", inline_css=False).fill().html == styled
    head = "---\nto: a@example.com\nformat: html\ninline-css: no\n---\n"
    assert Template(head + styled).fill().html == styled
    with pytest.raises(OptionError, match="neither yes nor no"):
        Template(head.replace("no\n", "maybe\n") + styled)
    dressed = Message(to="a@example.com", body="<b>x</b>", format="html", theme="<main>{{ content }}</main>")
    assert dressed.html == "<main><b>x</b></main>"


def test_tables_keep_their_alignment_and_do_not_widen_the_letter():
    html = Message(to="a@example.com", body="|a|b|\n|:-|-:|\n|1|2|\n|3|4|").html
    assert '<div class="scroll" style="margin: 0 0 16px;overflow-x: auto;"><table' in html
    assert html.count("text-align:right") + html.count("text-align: right") == 3
    assert '<tr style="background: #f4f5f6;">' in html


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_a_merge_prints_what_the_builder_of_one_message_makes(kind):
    """The footer's and the preheader's values too are filled into the mold."""
    theme = (
        {}
        if kind == "markdown"
        else {"theme": "<main>{{ preheader }} {{ content }} {{ unsubscribe }}</main>"}
    )
    template = Template(
        HEAD + ("Dear **{{ Name }}**" if kind == "markdown" else "<p>{{ Name }}</p>"), format=kind, **theme
    )
    press = Press(template, NOWHERE)
    rows = [
        {"Email": f"p{i}@example.com", "Token": token, "Name": name}
        for i, (token, name) in enumerate(
            [("a", "Ann"), ("b", "Bo"), ("c/d?e", "Zoë"), ("f", "<b>"), ("g", "x{{ y"), ("h", "Cy")]
        )
    ]
    for row in rows[:4] + rows[5:]:
        printed = press.print(row)
        planned = Planned(0, "k", "me@example.com", printed.recipients, printed.digest)
        message = template.fill(row)
        octets = b"".join(printed.chunks)
        parts = [p for p in __import__("email").message_from_bytes(octets).walk() if not p.is_multipart()]
        texts = [p.get_payload(decode=True).decode().replace("\r\n", "\n") for p in parts]
        assert texts[0].rstrip("\n") == message.text.rstrip("\n")
        assert texts[1].rstrip("\n") == message.html.rstrip("\n")
        assert planned.recipients == message.recipients
    assert press.slow_rows < len(rows), "some rows were printed by the mold"


def test_another_theme_is_another_campaign(tmp_path):
    one = Template("x", to="a@example.com", theme="<p>{{ content }}</p>")
    assert one.fingerprint != Template("x", to="a@example.com", theme="<b>{{ content }}</b>").fingerprint
    (tmp_path / "t.html").write_text("<p>{{ content }}</p>")
    by_file = Template("x", to="a@example.com", theme="t.html", attach_root=tmp_path).fingerprint
    (tmp_path / "t.html").write_text("<i>{{ content }}</i>")
    assert Template("x", to="a@example.com", theme="t.html", attach_root=tmp_path).fingerprint != by_file


def test_a_frame_says_how_much_of_it_is_shown(sandbox):
    rows = [{"Email": "a@example.com", "items": [{"n": i} for i in range(5)]}]
    mail_merge(
        rows,
        "{{ items | table(rows=2, caption='Top') }}",
        subject="s",
        from_="me@example.com",
        via=sandbox,
        progress=False,
    )
    text = sandbox.messages[0].email.get_body(("plain",)).get_content()
    assert text.replace("\r\n", "\n").startswith("Top\nn\n-\n0\n1\n… and 3 more rows")
    with pytest.raises(TemplateError, match="is no frame"):
        Template("{{ 3 | table }}", to="a@example.com").fill()
