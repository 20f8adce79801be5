"""What other people's HTML may bring into a mail: text and its looks, nothing that lives."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html

from smtp_notebook.safe_html import MAX_HTML, clean_html, clean_style, has_content

PNG = "data:image/png;base64,iVBORw0KGgo="

# What goes in, and what comes out.
CASES = {
    "text": ("a & b", "a &amp; b"),
    "text with references": ("a &amp; &lt;b&gt;", "a &amp; &lt;b&gt;"),
    "nothing": ("", ""),
    "markup": ("<p>a <b>c</b></p>", "<p>a <b>c</b></p>"),
    "text around it": ("a <b>c</b> d", "a <b>c</b> d"),
    "a script": ("a<script>alert(1)</script>b", "ab"),
    "a script that was not closed": ("a<script>alert(1)", "a"),
    "a script in capitals": ("a<SCRIPT >x</SCRIPT\n>b", "ab"),
    "a script inside a script": ("<scr<script></script>ipt>alert(1)</script>", ""),
    "an event handler": ('<img src="https://example.com/x.png" onerror="x()">', '<img src="https://example.com/x.png">'),
    "a link that runs": ('<a href="javascript:x()">a</a>', "<a>a</a>"),
    "a link that runs, hidden": ('<a href=" java\tscript:x()">a</a>', "<a>a</a>"),
    "a link that runs, encoded": ('<a href="&#106;avascript:x()">a</a>', "<a>a</a>"),
    "a good link": ('<a href="https://example.com/?a=1&amp;b=2">a</a>', '<a href="https://example.com/?a=1&amp;b=2">a</a>'),
    "a frame": ('a<iframe src="https://example.com">x</iframe>b', "ab"),
    "a form": ('<form action="/x"><input name="a"><p>kept</p><button>b</button></form>', "<p>kept</p>"),
    "a style sheet": ("<style>p{color:red}</style><p>a</p>", '<p style="color: red">a</p>'),
    "a style sheet that hides all": ("<style>@media all{body{display:none}}</style><p>a</p>", "<p>a</p>"),
    "vector graphics": ('<svg onload="x()"><text>a</text></svg>b', "b"),
    "a comment": ("a<!-- <b> -->b", "ab"),
    "Outlook's comment": ("a<!--[if mso]><b>x</b><![endif]-->b", "ab"),
    "an image without a source": ('a <img alt="chart"> b', "a chart b"),
    "an image that runs": ('<img src="data:text/html,x" alt="c">', "c"),
    "a remote style": ('<p style="background:url(https://example.com/x.png);color:red">a</p>', '<p style="color:red">a</p>'),
    "a style that leaves its place": ('<p style="position:fixed;top:0;color:red">a</p>', '<p style="top:0;color:red">a</p>'),
    "names": ('<p id="a" class="b" data-x="1">a</p>', "<p>a</p>"),
    "a whole document": ("<!doctype html><html><head><title>t</title></head><body><p>a</p></body></html>", "<p>a</p>"),
    "a document of frames": ("<html><head></head><frameset><frame src='x'></frameset></html>", ""),
    "scripts and styles left open": ("<script><style>", ""),
    "a head alone": ("<html><head>", ""),
    "two bodies": ("<body>a</body><body>b</body>", "ab"),
    "an XML declaration": ("<?xml version='1.0' encoding='x'?><p>a</p>", "<p>a</p>"),
    "elements of other worlds": ("<o:p>a</o:p><math><mi>x</mi></math><my-chart onclick='x()'>c</my-chart>b", "acb"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "clean"), CASES.values(), ids=CASES)
def test_nothing_that_lives_gets_through(source, clean):
    assert clean_html(source) == clean


def test_an_image_inside_the_html_is_handed_over():
    seen = []

    def part(uri):
        seen.append(uri)
        return "cid:1"

    assert clean_html(f'<img src="{PNG}" alt="a">', part) == '<img src="cid:1" alt="a">'
    assert seen == [PNG]
    assert clean_html(f'<img src="{PNG}" alt="a">') == "a"


LIVE = re.compile(
    r"<(?:script|iframe|object|embed|svg|form|input|style|link|meta|base)\b|\son\w+\s*=|javascript:",
    re.IGNORECASE,
)
PIECES = st.sampled_from(
    ["<", ">", "</", "script", "<script>", "</script>", "<img src=x onerror=x()>", "<svg", " onload=x()", "javascript:",
     '<a href="', '"', "'", "<!--", "-->", "]]>", "<![CDATA[", "<style>", "</style>", "p{color:red}", "<p", "<table>", "<tr>",
     "&lt;script&gt;", "\0", "\ud800", "\u202e", "<textarea>", "</textarea>", "<title>", "<noscript>", "<math><mtext>", " x "]
)  # fmt: skip


def assert_nothing_lives(clean):
    clean.encode()
    root = lxml_html.fragment_fromstring(clean, create_parent="div") if clean else None
    for node in root.iter() if root is not None else ():
        assert isinstance(node.tag, str)
        assert not LIVE.search(f"<{node.tag}")
        assert not [a for a in node.attrib if a.lower().startswith("on")]
        for name in {"href", "src"} & set(node.attrib):
            assert "javascript:" not in re.sub(r"[\x00-\x20]", "", node.attrib[name]).lower()


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=200))
def test_whatever_it_is_made_of_what_comes_out_parses_to_nothing_live(source):
    clean = clean_html(source)
    assert_nothing_lives(clean)
    # Nor does what a second reader makes of it, who may nest it differently.
    assert_nothing_lives(clean_html(clean))


def test_html_too_large_or_too_deep_is_refused_and_not_a_crash():
    with pytest.raises(ValueError, match="MB"):
        clean_html("<p>" + "x" * MAX_HTML)
    with pytest.raises(ValueError, match="nested deeper"):
        clean_html("<div>" * 100_000)
    with pytest.raises(ValueError, match="nested deeper"):
        clean_html("<div>" * 100_000 + "</div>" * 100_000)
    # Left open, but not nested: a parser closes them.
    assert clean_html("<p>a" * 1000).count("<p>") == 1000
    assert clean_html("<table>" + "<tr><td>a" * 1000).count("<td>") == 1000


DEEP = {
    "closed by another": ("", "<b></i>"),
    "empty only in HTML": ("<svg>", "<track>"),
    "empty only in formulas": ("<math>", "<input>"),
    "empty in one parser": ("", "<isindex>"),
    "closed in an attribute": ("", '<b title="</b>">'),
    "closed in a comment": ("", "<b><!--</b>-->"),
    "closed where it is not open": ("", "<i><table></i></table>"),
    "a new element of each": ("", "<a><p><b>"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("style", ["<style>p{color:red}</style>", ""])
@pytest.mark.parametrize(("before", "piece"), DEEP.values(), ids=DEEP)
def test_no_nesting_that_parsers_see_differently_ends_the_process(before, piece, style):
    """In a process of its own, which a stack that runs out would end."""
    code = (
        "import sys, contextlib\n"
        "from smtp_notebook.safe_html import clean_html\n"
        "with contextlib.suppress(ValueError):\n"
        "    clean_html(sys.argv[1] + sys.argv[2] * 60_000 + 'end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, style + before, piece], check=False)
    assert done.returncode == 0


def test_nothing_is_lost_where_a_parser_would_give_up():
    for depth in (190, 250, 400):
        try:
            assert "the end" in clean_html("<div>" * depth + "the end" + "</div>" * depth)
        except ValueError as error:
            assert "nested deeper" in str(error)
            assert depth > 199


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["<", "&", "<a ", '"', "<!--", "x;", "<b>", "</b>", "<style>", "]]>"])
def test_a_megabyte_of_anything_ends(piece):
    with contextlib.suppress(ValueError):
        clean_html(piece * (2**20 // len(piece)))


def test_a_style_keeps_what_is_harmless():
    assert (
        clean_style("color:red; background:url(x); font-family:'a;b',serif;;")
        == "color:red;font-family:'a;b',serif"
    )
    assert clean_style("width:expression(alert(1))") == ""
    assert clean_style("color:r\\65 d") == ""


def test_what_shows_nothing_is_known():
    assert has_content("<p>a</p>")
    assert has_content('<img src="cid:1">')
    assert not has_content("<div> <p>&nbsp;</p></div>")
