"""Warnings: each rule with a mail that has it and the nearest one that has not, and what must never happen."""

from __future__ import annotations

import html.parser
import time

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import Attachment, Connection, Dkim, Message, support
from smtp_notebook.letters import LETTER
from smtp_notebook.lint import Finding, lint
from smtp_notebook.markup import Kind, attributes, declarations, statements, tokens
from smtp_notebook.render import render


def server(host="mail.example.com", **settings):
    return Connection(host=host, port=587, **settings)


def found(html="<p>Hello</p>", *, login="", via=None, **fields):
    given = {"to": "ann@example.com", "from_": "me@example.com", "subject": "Hello", "text": "Hello"}
    return lint(Message(**(given | {"html": html} | fields)), login=login, via=via)


def codes(*args, **kwargs):
    return [f.code for f in found(*args, **kwargs)]


def png(width):
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + bytes(20)


def gif(width):
    return b"GIF89a" + width.to_bytes(2, "little") + bytes(20)


def jpeg(width):
    segment = b"\xff\xe0\0\x10" + bytes(14)
    frame = b"\xff\xc2\0\x11\x08\0\x10" + width.to_bytes(2, "big") + bytes(10)
    return b"\xff\xd8" + segment + b"\xff" + frame + bytes(20)


def shown(content, tag='<img src="cid:chart" alt="A chart">', name="chart.png"):
    return {"html": f"<p>Hello {tag}</p>", "inline": [Attachment(content, name, content_id="chart")]}


def styled(css, tag="div", more=""):
    return {"html": f'<{tag} style="{css}" {more}>Hello</{tag}>'}


def in_sheet(css, before=""):
    return {"html": f"<html><head>{before}<style>{css}</style></head><body><p>Hello</p></body></html>"}


ROWS = "<tr><td>A word</td><td>and another</td></tr>\n"
IMAGE = '<p>Hello <img src="{}" alt="A chart"></p>'
LINK = '<p>Hello <a href="{}">there</a></p>'

BULK = {
    "unsubscribe": "https://example.com/u",
    "postal_address": "1 High Street",
    "text": "1 High Street, https://example.com/u",
    "html": '<p>1 High Street, <a href="https://example.com/u">off</a>',
}

#: Why, code, the mail that has it, the nearest mail that has it not.
CASES = [
    ("no subject", "subject-missing", {"subject": ""}, {"subject": "x"}),
    ("a long subject", "subject-long", {"subject": "x" * 79}, {"subject": "x" * 78}),
    ("another's domain", "from-domain", {"login": "me@example.org"}, {"login": "me@example.com"}),
    ("a name, no domain", "from-domain", {"login": "me@sub.example.org"}, {"login": "me"}),
    ("a domain above", "from-domain", {"login": "me@ample.com"}, {"login": "me@mail.EXAMPLE.com"}),
    (
        "IDNA",
        "from-domain",
        {"login": "me@exämple.org"},
        {"login": "me@xn--exmple-cua.test", "from_": "me@exämple.test"},
    ),
    (
        "a provider's mailbox",
        "from-provider",
        {"from_": "nobody!@gmail.com", "via": server()},
        {"from_": "nobody!@gmail.com", "via": server("smtp.gmail.com")},
    ),
    (
        "another's signature",
        "dkim-domain",
        {"via": server(dkim=Dkim(domain="example.org", selector="s", key_file="k"))},
        {"via": server(dkim=Dkim(domain="example.com", selector="s", key_file="k"))},
    ),
    ("an answer to nothing", "subject-reply", {"subject": "Re: x"}, {"subject": "Result: x"}),
    (
        "the recipient's name",
        "sender-name",
        {"from_": "Ann <me@example.com>", "to": "Ann <ann@example.com>"},
        {"from_": "Bo <me@example.com>", "to": "Ann <ann@example.com>"},
    ),
    ("no one click", "bulk-one-click", BULK | {"unsubscribe": "mailto:u@example.com"}, BULK),
    ("who it is", "bulk-link-open", BULK | {"unsubscribe": "https://example.com/ann@example.com"}, BULK),
    ("no link", "bulk-link", BULK | {"text": "Hello, 1 High Street"}, BULK),
    ("no postal address", "bulk-postal", BULK | {"postal_address": ""}, BULK),
    ("a hidden one", "bulk-postal", BULK | {"text": "https://example.com/u"}, BULK),
    ("braces in the subject", "template-left", {"subject": "Hi {{ Name }}"}, {"subject": "Hi {Name}"}),
    ("braces in the text", "template-left", {"text": "Hi {% if x %}"}, {"text": "Hi {x} 100 %}"}),
    ("braces in the HTML", "template-left", {"html": "<p>{{ Name"}, {"html": "<style>a{b:c}</style><p>x"}),
    (
        "braces in an attribute",
        "template-left",
        {"html": LINK.format("{{ url }}")},
        {"html": LINK.format("https://example.com/%7B%7B")},
    ),
    ("a comment is not shown", "template-left", {"html": "<p>x{{ x }}"}, {"html": "<p>x<!-- {{ x }} -->"}),
    ("no text beside HTML", "text-missing", {"text": " \n"}, {"text": "x"}),
    ("empty HTML", "html-empty", {"html": "<p>&nbsp;</p><!-- x -->"}, {"html": "<p>x</p>"}),
    ("HTML with a title alone", "html-empty", {"html": "<title>x</title>"}, {"html": "<title>x</title><hr>"}),
    ("empty altogether", "body-empty", {"html": "<p></p>", "text": ""}, {"html": "<p></p>", "text": "x"}),
    (
        "empty text mail",
        "body-empty",
        {"html": None, "format": "text", "body": " ", "text": None},
        {"html": None, "format": "text", "body": "x", "text": None},
    ),
    (
        "pictures alone",
        "image-only",
        {"html": '<img src="cid:a" alt="">'},
        {"html": 'x<img src="cid:a" alt="">'},
    ),
    ("clipped", "html-clipped", {"html": "x" * (102 * 1024 + 1)}, {"html": "x" * 102 * 1024}),
    ("clipped, in bytes", "html-clipped", {"html": "ä" * 60_000}, {"html": "a" * 60_000}),
    ("too many styles", "styles-clipped", in_sheet("p{color:red}" * 1400), in_sheet("p{color:red}" * 1300)),
    ("no alt", "image-alt", {"html": '<p>x<img src="cid:a">'}, {"html": '<p>x<img src="cid:a" alt>'}),
    (
        "an alt in a comment",
        "image-alt",
        {"html": "<p>x<img src='cid:a' data-alt='x'>"},
        {"html": "<p>x<!--<img src='cid:a'>-->"},
    ),
    ("a wide PNG", "image-wide", shown(png(601)), shown(png(600))),
    ("a wide GIF", "image-wide", shown(gif(601), name="chart.gif"), shown(gif(600), name="chart.gif")),
    ("a wide JPEG", "image-wide", shown(jpeg(601), name="chart.jpg"), shown(jpeg(600), name="chart.jpg")),
    (
        "a width in CSS",
        "image-wide",
        shown(png(900), '<img src="cid:chart" alt="" style="width:300px">'),
        shown(png(900), '<img src="cid:chart" alt="" width="300">'),
    ),
    (
        "a width in percent",
        "image-wide",
        shown(png(900), '<img src="cid:chart" alt="" width="100%">'),
        shown(png(300), '<img src="cid:chart" alt="" width="100%">'),
    ),
    (
        "a wide attribute",
        "image-wide",
        shown(png(9), '<img src="cid:chart" alt="" width=601>'),
        shown(png(9), '<img src="cid:chart" alt="" width=600>'),
    ),
    (
        "not for Outlook",
        "image-wide",
        shown(png(900)),
        shown(png(900), '<!--[if !mso]><!--><img src="cid:chart" alt=""><!--<![endif]-->'),
    ),
    (
        "from the web",
        "image-remote",
        {"html": IMAGE.format("https://example.com/a.png")},
        {"html": IMAGE.format("cid:a")},
    ),
    (
        "without a scheme from the web",
        "image-remote",
        {"html": IMAGE.format("//example.com/a.png")},
        {"html": "<p>x"},
    ),
    (
        "a background from the web",
        "image-remote",
        styled("background:#eeeeee url(https://example.com/a.png)"),
        styled("background:#eeeeee"),
    ),
    (
        "data:",
        "image-data",
        {"html": IMAGE.format("data:image/png;base64,AAAA")},
        {"html": IMAGE.format("cid:a")},
    ),
    (
        "a file's name",
        "image-unreachable",
        {"html": IMAGE.format("chart.png")},
        {"html": IMAGE.format("cid:chart.png")},
    ),
    (
        "a path",
        "image-unreachable",
        {"html": IMAGE.format("file:///home/ann/chart.png")},
        {"html": IMAGE.format("https://example.com/home/ann/chart.png")},
    ),
    (
        "WebP",
        "image-format",
        {"html": IMAGE.format("https://example.com/a.webp?x=1")},
        {"html": IMAGE.format("https://example.com/a.png?x=.webp")},
    ),
    ("SVG as a part", "image-format", shown(b"<svg/>", name="chart.svg"), shown(png(10))),
    (
        "WebP, not for Outlook",
        "image-format",
        {"html": IMAGE.format("a.avif")},
        {"html": "<![if !mso]>" + IMAGE.format("a.avif") + "<![endif]>"},
    ),
    ("no address", "link-empty", {"html": LINK.format(" ")}, {"html": "<p>x<a name='here'>there</a>"}),
    ("a hash", "link-empty", {"html": LINK.format("#")}, {"html": LINK.format("#here")}),
    (
        "no scheme",
        "link-relative",
        {"html": LINK.format("www.example.com")},
        {"html": LINK.format("https://www.example.com")},
    ),
    (
        "a port is no scheme",
        "link-relative",
        {"html": LINK.format("example.com:8080/a")},
        {"html": LINK.format("tel:+4912345")},
    ),
    (
        "a path",
        "link-relative",
        {"html": LINK.format("/a/b")},
        {"html": LINK.format("mailto:ann@example.com")},
    ),
    (
        "two slashes",
        "link-relative",
        {"html": LINK.format("//example.com/a")},
        {"html": LINK.format("HTTPS://example.com/a")},
    ),
    (
        "an area",
        "link-relative",
        {"html": "<p>x<map><area href=a.html></map>"},
        {"html": "<p>x<map><area></map>"},
    ),
    (
        "localhost",
        "link-local",
        {"html": LINK.format("http://localhost:8888/tree")},
        {"html": LINK.format("http://localhost.example.com/tree")},
    ),
    (
        "localhost alone",
        "link-local",
        {"html": LINK.format("localhost:8888/tree")},
        {"html": LINK.format("local:8888/tree")},
    ),
    (
        "loopback",
        "link-local",
        {"html": LINK.format("http://127.0.0.1/")},
        {"html": LINK.format("http://192.0.2.1/")},
    ),
    (
        "a file",
        "link-local",
        {"html": LINK.format("file:///a")},
        {"html": LINK.format("ftp://example.com/a")},
    ),
    ("a drive", "link-local", {"html": LINK.format(r"C:\a.txt")}, {"html": LINK.format("cid:a")}),
    (
        "a script",
        "link-script",
        {"html": LINK.format("java\nscript:alert(1)")},
        {"html": LINK.format("https://example.com/javascript:")},
    ),
    ("no host", "link-malformed", {"html": LINK.format("https:///a")}, {"html": LINK.format("https://a/")}),
    (
        "one slash",
        "link-malformed",
        {"html": LINK.format("https:/example.com")},
        {"html": LINK.format("https://example.com")},
    ),
    (
        "a blank in the host",
        "link-malformed",
        {"html": LINK.format("https://exa mple.com/")},
        {"html": LINK.format("https://exämple.com/a b")},
    ),
    (
        "a scheme twice",
        "link-malformed",
        {"html": LINK.format("http://https://example.com")},
        {"html": LINK.format("http://example.com/https://")},
    ),
    (
        "a port that is none",
        "link-malformed",
        {"html": LINK.format("http://example.com:80800/")},
        {"html": LINK.format("http://u:p@example.com:8080/")},
    ),
    (
        "an address without @",
        "link-malformed",
        {"html": LINK.format("mailto:ann")},
        {"html": LINK.format("mailto:?subject=Hi")},
    ),
    (
        "another host",
        "link-mismatch",
        {"html": '<p>x<a href="https://example.org/x">https://example.com</a>'},
        {"html": '<p>x<a href="https://www.example.com/x">http://example.com</a>'},
    ),
    (
        "another host, in bold",
        "link-mismatch",
        {"html": '<p>x<a href="https://example.org/x"> <b>www.exam</b>ple.com/a </a>'},
        {"html": '<p>x<a href="https://example.org/x">see www.example.com</a>'},
    ),
    (
        "a subdomain is the same",
        "link-mismatch",
        {"html": '<p>x<a href="https://bexample.com/x">https://example.com</a>'},
        {"html": '<p>x<a href="https://news.example.com/x">https://example.com</a>'},
    ),
    (
        "IDNA",
        "link-mismatch",
        {"html": '<p>x<a href="https://example.com">https://exämple.com</a>'},
        {"html": '<p>x<a href="https://xn--exmple-cua.com">https://exämple.com</a>'},
    ),
    ("flex", "css-unsupported", styled("display:flex"), styled("display:block;display:flex")),
    (
        "upper case",
        "css-unsupported",
        styled("DISPLAY: Inline-Flex !IMPORTANT"),
        styled("display:inline-block"),
    ),
    ("grid", "css-unsupported", styled("display:grid"), styled("--display:grid")),
    ("gap", "css-unsupported", styled("gap:4px"), styled("column-gap:4px")),
    ("position", "css-unsupported", styled("position:absolute"), styled("position:relative")),
    (
        "float",
        "css-unsupported",
        {"html": "<p>x<img src='cid:a' alt='' style='float:left'>"},
        {"html": "<p>x<img src='cid:a' alt='' align=left style='float:left'>"},
    ),
    (
        "a picture behind",
        "css-unsupported",
        styled("background:url(cid:a)"),
        styled("background-color:#eeeeee;background-image:url(cid:a)"),
    ),
    (
        "a picture behind a cell",
        "css-unsupported",
        styled("background-image:url('cid:a')"),
        styled("background-image:url('cid:a')", more="bgcolor=#eeeeee"),
    ),
    (
        "a gradient",
        "css-unsupported",
        styled("background:linear-gradient(red,blue)"),
        styled("background:red;background:linear-gradient(red,blue)"),
    ),
    ("a negative margin", "css-unsupported", styled("margin:0 -4px"), styled("margin:-0 4px")),
    (
        "logical sides",
        "css-unsupported",
        styled("margin-inline:4px"),
        styled("margin:0 4px;margin-inline:4px"),
    ),
    ("object-fit", "css-unsupported", styled("object-fit:cover"), styled("object-position:top")),
    ("animation", "css-unsupported", styled("animation:x 1s"), styled("animation:none")),
    (
        "hidden by visibility",
        "css-unsupported",
        styled("visibility:hidden"),
        styled("visibility:hidden;display:none"),
    ),
    ("hidden by opacity", "css-unsupported", styled("opacity:0"), styled("opacity:0;mso-hide:all")),
    (
        "hidden for Outlook alone",
        "css-unsupported",
        styled("visibility:hidden;mso-hide:all"),
        styled("opacity:.5"),
    ),
    (
        "calc()",
        "css-unsupported",
        styled("width:calc(100% - 4px)"),
        styled("width:96%;width:calc(100% - 4px)"),
    ),
    (
        "two of a kind",
        "css-unsupported",
        styled("width:min(4px,2%);width:calc(1px + 2px)"),
        styled("width:4px;width:min(4px,2%);width:calc(1px + 2px)"),
    ),
    ("var()", "css-unsupported", styled("color:var(--ink)"), styled("--ink:var(--x)")),
    (
        "rgba()",
        "css-unsupported",
        styled("background:rgba(0,0,0,.5)"),
        styled("background:#eeeeee;background:rgba(0,0,0,.5)"),
    ),
    ("rgb() with four", "css-unsupported", styled("color:rgb(0, 0, 0, .5)"), styled("color:rgb(0, 0, 0)")),
    ("rgb() with blanks", "css-unsupported", styled("color:rgb(0 0 0)"), styled("color:rgb(0,0,0)")),
    ("hsl()", "css-unsupported", styled("color:hsl(0,50%,50%)"), styled("color:#bf4040")),
    (
        "a shadow is harmless",
        "css-unsupported",
        styled("color:hsla(0,50%,50%,1)"),
        styled("box-shadow:0 0 4px hsl(0,0%,0%)"),
    ),
    (
        "oklch()",
        "css-unsupported",
        styled("color:oklch(40% .2 30)"),
        styled("font-family:'oklch(40% .2 30)'"),
    ),
    ("rem", "css-unsupported", styled("font-size:1.5rem"), styled("font-size:24px;font-size:1.5rem")),
    ("vw", "css-unsupported", styled("width:50vw"), styled("background-image:none;font-family:a50vw")),
    (
        "the entity",
        "css-unsupported",
        styled("font-family:&quot;a;b&quot;;display:flex"),
        styled("font-family:&quot;a;display:flex&quot;"),
    ),
    (
        "a data: picture",
        "css-unsupported",
        styled("background-color:red;background-image:url(data:x;a,b);float:left"),
        styled("background-color:red;background-image:url(data:x;float:left)"),
    ),
    ("a rule", "css-unsupported", in_sheet("p{display:flex}"), in_sheet("/*p{display:flex}*/p{color:red}")),
    (
        "a rule for some",
        "css-unsupported",
        in_sheet("p{gap:4px}"),
        in_sheet("@media (min-width:600px){p{gap:4px}}"),
    ),
    (
        "a rule for those who can",
        "css-unsupported",
        in_sheet("p{gap:4px}"),
        in_sheet("@supports (gap:4px){p{gap:4px}}"),
    ),
    (
        "a rule when touched",
        "css-unsupported",
        in_sheet("a{transform:scale(2)}"),
        in_sheet("a:hover{transform:scale(2)}"),
    ),
    (
        "a font",
        "css-unsupported",
        in_sheet("@font-face{font-family:x;src:url(x)}"),
        in_sheet("@media screen{@font-face{font-family:x;src:url(x)}}"),
    ),
    (
        "an import",
        "css-unsupported",
        in_sheet("@import url(https://example.com/a.css);"),
        in_sheet("@charset 'utf-8';"),
    ),
    (
        "nesting",
        "css-unsupported",
        in_sheet("p{color:red;& b{color:blue}}"),
        in_sheet("p{color:red}p b{color:blue}"),
    ),
    (
        "text before",
        "css-unsupported",
        in_sheet("p::before{content:'New: '}"),
        in_sheet("p::before{content:''}"),
    ),
    (
        "a linked sheet",
        "css-unsupported",
        in_sheet("", "<link rel=stylesheet href=https://example.com/a.css>"),
        in_sheet("", "<link rel=icon href=https://example.com/a.ico>"),
    ),
    (
        "a sheet in the body",
        "css-unsupported",
        {"html": "<p>x</p><style>p{color:red}</style>"},
        {"html": "<p>x</p><style>@media print{p{color:red}}</style>"},
    ),
    (
        "a sheet for some",
        "css-unsupported",
        in_sheet("p{gap:4px}"),
        {"html": "<style media=print>p{gap:4px}</style><p>x"},
    ),
    (
        "not for Outlook",
        "css-unsupported",
        styled("display:flex"),
        {"html": "<p>x</p><!--[if !mso]><!--><p style='display:flex'>x</p><!--<![endif]-->"},
    ),
    (
        "Outlook's own",
        "css-unsupported",
        styled("display:flex"),
        {"html": "<p>x</p><!--[if mso]><p style='display:flex'>x</p><![endif]-->"},
    ),
    (
        "after Outlook's own",
        "css-unsupported",
        {"html": "<!--[if !mso]><!-->x<!--<![endif]--><p style='display:flex'>x</p>"},
        {"html": "<p>x</p>"},
    ),
    ("svg", "html-unsupported", {"html": "<p>x<svg></svg>"}, {"html": "<p>x<!-- <svg> --></p>"}),
    (
        "video",
        "html-unsupported",
        {"html": "<p>x<video src=a></video>"},
        {"html": "<p>x<video src=a><a href=https://example.com/>See it</a></video>"},
    ),
    (
        "a video that never ends",
        "html-unsupported",
        {"html": "<p>x<video src=a> "},
        {"html": "<p>x<video src=a>See it there"},
    ),
    (
        "progress",
        "html-unsupported",
        {"html": "<p>x<progress value=7></progress>"},
        {"html": "<p>x<progress value=7>70 %</progress>"},
    ),
    (
        "a form",
        "html-unsupported",
        {"html": "<p>x<button>Yes</button>"},
        {"html": "<p>x<a href='https://example.com'>Yes</a>"},
    ),
    (
        "a script",
        "html-unsupported",
        {"html": "<p>x<script>a</script>"},
        {"html": "<p>x<script type=application/ld+json>{}</script>"},
    ),
    (
        "a script in an attribute",
        "html-unsupported",
        {"html": "<p onclick='a()'>x"},
        {"html": "<p data-onclick='a()'>x"},
    ),
    (
        "a script's text",
        "html-unsupported",
        {"html": "<p>x<iframe src=a></iframe>"},
        {"html": "<p>x<textarea-x></textarea-x>"},
    ),
    (
        "hidden",
        "html-unsupported",
        {"html": "<p>x<b hidden>y</b>"},
        {"html": "<p>x<b hidden style='display:none'>y</b>"},
    ),
    (
        "a cell's picture",
        "html-unsupported",
        {"html": "<table><tr><td background=cid:a>x"},
        {"html": "<table><tr><td background=cid:a bgcolor=#eeeeee>x"},
    ),
    (
        "the body's picture",
        "html-unsupported",
        {"html": "<table background=cid:a><tr><td>x"},
        {"html": "<body background=cid:a>x"},
    ),
    (
        "srcset alone",
        "html-unsupported",
        {"html": "<p>x<img srcset='a 2x' alt=''>"},
        {"html": "<p>x<img srcset='a 2x' src=cid:a alt=''>"},
    ),
    (
        "a picture has an image",
        "html-unsupported",
        {"html": "<p>x<object data=a></object>"},
        {"html": "<p>x<picture><source srcset=a><img src=cid:a alt=''></picture>"},
    ),
]


@pytest.mark.parametrize(
    ("code", "having", "lacking"), [c[1:] for c in CASES], ids=[f"{c[1]}: {c[0]}" for c in CASES]
)
def test_each_rule_finds_what_it_is_for_and_nothing_beside_it(code, having, lacking):
    assert code in codes(**having)
    assert code not in codes(**lacking)


def test_every_code_has_a_case():
    seen = {f.code for _, _, having, _ in CASES for f in found(**having)}
    assert seen == {code for _, code, _, _ in CASES}


# ------------------------------------------------------------------------------------------ the words


def test_a_finding_reads_as_one_line():
    finding = Finding("html-clipped", "The HTML is 120 kB.", "Gmail", "Shorten it.")
    assert str(finding) == "html-clipped: The HTML is 120 kB (Gmail). Shorten it."
    assert str(Finding("a-b", "It is so.", "", "Do so.")) == "a-b: It is so. Do so."


def test_every_finding_is_one_line_of_whole_sentences():
    for _, code, having, _ in CASES:
        for finding in found(**having):
            assert "\n" not in str(finding), code
            assert finding.text.endswith(".")
            assert finding.fix.endswith((".", "…", "<img>.")), code
            assert set(filter(None, finding.clients.split(", "))) <= set(support.CLIENTS.values())


def test_repeated_things_are_one_finding_that_names_the_first():
    tags = "".join(f"<img src='https://example.com/i/{n}.png'>" for n in range(5))
    alt, remote = found(f"<p>Hello {tags}")
    assert (alt.code, remote.code) == ("image-alt", "image-remote")
    assert alt.text.startswith("5 images have no alt text (0.png, 1.png, 2.png, …)")
    assert "1 image has no alt text (0.png)" in found("<p>x<img src='cid:0.png'>", inline=[])[0].text.replace(
        "cid:", ""
    )


def test_a_large_table_is_named_with_the_way_out():
    (finding,) = found(f"<p>Hello</p><table>{ROWS * 3000}</table>")
    assert "a table of 3,000 rows takes" in finding.text
    assert 'Attachment(frame, "rows.xlsx")' in finding.fix
    (finding,) = found(f"<table>{'<tr><td>' + 'x' * 60_000 + '</td></tr>'}</table>" * 2)
    assert "table" not in finding.text


def test_a_table_inside_a_layout_table_is_the_one_that_is_named():
    (finding,) = found(f"<table><tr><td><table>{ROWS * 3000}</table></td></tr></table>")
    assert "3,000 rows" in finding.text


def test_many_kinds_of_css_are_a_few_findings():
    css = "display:flex;gap:1px;float:left;object-fit:cover;transform:none;transform:scale(2);width:1vw;height:2vh"
    several = found(**styled(css))
    assert [f.code for f in several] == ["css-unsupported"] * 5
    assert several[-1].text == "2 more: the unit vw, the unit vh."


def test_how_often_something_occurs_is_said_once():
    (finding,) = found("<p style='display:flex'>x</p><p style='display:flex'>y</p>")
    assert finding.text == "display: flex has no effect (2 places)."
    assert finding.clients == "Outlook for Windows"


def test_findings_come_in_a_fixed_order():
    html = "<p style='display:flex'>{{ x }}<svg></svg><a href=''>x</a><img src='a.png' alt=''>"
    assert codes(html, subject="", login="me@example.org") == [
        "subject-missing",
        "from-domain",
        "template-left",
        "image-unreachable",
        "link-empty",
        "html-unsupported",
        "css-unsupported",
    ]


def test_long_names_from_the_mail_are_shortened():
    (finding,) = found(LINK.format("www.example.com/\n" + "x" * 5000))
    assert len(str(finding)) < 250


# ----------------------------------------------------------------------------------- what has nothing

RICH = """# The week

Dear **Ann**, *thank you* for ~~asking~~ `reading`:
https://example.com/report?a=1&b=2 and [the rest](https://example.org/rest) or <ann@example.com>.

> A quotation, with 1 < 2 & 3 > 2

| product | sold | left |
|---------|-----:|:----:|
| Pens    |   12 |  3   |

1. one
2. two
   - deeper

```python
if a < b: print("<p style='display:flex'>")
```

---
### Bye
![A chart](cid:chart)
"""


def test_the_default_letter_has_no_findings():
    mail = {"to": "a@example.com", "from_": "me@example.com", "subject": "The week"}
    assert not lint(
        Message(**mail, body=RICH, inline=[Attachment(png(500), "chart.png", content_id="chart")])
    )


def test_a_rendered_frame_and_figure_have_no_findings():
    import matplotlib.pyplot as plt

    frame = pd.DataFrame({"name": ["Ann & <Bob>"] * 50, "sold": range(50), "at": pd.Timestamp("2026-01-02")})
    figure, axes = plt.subplots(figsize=(12, 4))
    axes.plot([1, 2])
    table, chart = render(frame), render(figure)
    plt.close(figure)
    html = LETTER.dress(f"{table.html}{chart.html}")
    mail = Message(
        to="a@example.com", subject="Sold", body=html, format="html", text=table.text, inline=chart.inline
    )
    assert not lint(mail, login="me@example.com")


def test_a_frame_s_own_html_has_no_findings():
    frame = pd.DataFrame({"name": ["Ann"] * 5, "sold": range(5)})
    plain, styled_ = frame.to_html(), frame.style.format(escape="html").highlight_max().to_html()
    mail = Message(to="a@example.com", subject="x", body=f"<p>Hello</p>{plain}{styled_}", format="html")
    assert not lint(mail)
    assert not codes(styled_)
    assert codes(f"<p>Hello</p>{styled_}") == ["css-unsupported"]  # a sheet in the body is nothing to Gmail


def test_a_text_mail_has_no_findings():
    assert not lint(Message(to="a@example.com", subject="x", body="Hello", format="text"))


# ------------------------------------------------------------------------------------------ the facts


def every_feature():
    rules = [f for several in support.PROPERTIES.values() for _, f in several]
    rules += [f for _, f in support.VALUES]
    for table in (support.AT_RULES, support.ELEMENTS, support.ATTRIBUTES, support.IMAGES):
        rules += table.values()
    return [*rules, support.NESTING, support.GENERATED, support.STYLE_IN_BODY]


def test_every_row_of_the_table_names_its_source_and_programs():
    for feature in every_feature():
        assert feature.source.startswith(("css-", "html-", "image-")) or feature.source in {
            support.WORD,
            support.NO_SCRIPT,
        }
        assert feature.lacking
        assert set(feature.lacking) <= set(support.CLIENTS)
        assert not feature.fix or feature.fix.endswith(".")


def test_programs_are_named_in_one_order_and_all_of_them_by_nothing():
    assert support.clients("oG") == "Gmail, Outlook.com and the new Outlook"
    assert not support.clients("AoGO")


# ------------------------------------------------------------------------------------------ any input

PIECES = st.sampled_from(
    [
        '<p class="a>b">', "</p>", "<br/>", "<a href=x>", "<A HREF='y' title=\"it's\">", "</a >", "1 < 2 ", "&amp;",
        "<!-- <p> -->", "<!--><i>-->", "<!doctype html>", "<script>if (a<b) '<p>'</script>", "text", "<img alt src = q >",
        "<style>a{b:'</p>'}</style>", "<td style='a:b' nowrap>", "<?x?>",
    ]
)  # fmt: skip
MANGLED = st.lists(
    st.one_of(
        st.text(alphabet="<>/!-=\"'&;:{}()[]#@.\\ \nabsp%*", max_size=12),
        st.sampled_from(
            [
                "<p ", "<style>", "</style>", "<script>", "<!--[if !mso]><!-->", "<!--<![endif]-->", "<![if", "<table><tr>",
                "</table>", '<a href="http://', "<img src=data:image/", ' style="', "url(", "/*", "*/", "@media{", "@font-face",
                "rgb(", "calc(1rem", "&#" + "9" * 5000 + ";", "<video>", "</video>", "{{", "{%", "display:flex;", "ä", "<svg/onload=x>",
            ]
        ),
    ),
    max_size=30,
).map("".join)  # fmt: skip


class Peer(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))


@given(st.lists(PIECES, max_size=12).map("".join).filter(lambda text: "<!-->" not in text))
def test_tags_and_attributes_are_those_that_the_standard_library_reads(document):
    peer = Peer()
    peer.feed(document)
    peer.close()
    ours = [(t.name, attributes(t.text)) for t in tokens(document) if t.kind is Kind.START]
    assert ours == peer.tags


@given(st.one_of(MANGLED, st.text()))
def test_whatever_the_html_nothing_raises(document):
    text = document.replace("\0", "")
    for finding in found(text, body="x"):
        assert str(finding)


@given(st.one_of(MANGLED, st.text()))
def test_pieces_are_in_order_and_hold_what_stands_there(document):
    last = 0
    for token in tokens(document):
        assert token.start >= last
        last = token.start
        assert token.kind is not Kind.TEXT or document.startswith(token.text, token.start)


WORD = st.text(alphabet="abcxyz-", min_size=1, max_size=6).filter(lambda w: "--" not in w)
VALUE = st.one_of(
    WORD, st.sampled_from(["1px 2px", "url(a;b)", "'s'", "f(g(1;2),[3;4])", "#fff", 'url( "a)" )', "a/*;*/b"])
)


@given(st.lists(st.tuples(WORD, VALUE), max_size=6))
def test_declarations_come_back_as_they_were_written(pairs):
    block = ";".join(f"{name} : {value} ! important" for name, value in pairs)
    assert [name for name, _ in declarations(block)] == [name for name, _ in pairs]
    (rule,) = statements(f"p{{{block}}}")
    assert [name for name, _ in declarations(rule.block)] == [name for name, _ in pairs]


@given(st.one_of(MANGLED, st.text()))
def test_whatever_the_css_nothing_raises(css):
    assert all(s.head is not None for s in statements(css))
    assert all(name for name, _ in declarations(css))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("angles", "<" * 10**6),
        ("braces", "{" * 10**6),
        ("tags that never end", "<a " * 333_333),
        ("quotes that never end", '<a b="' * 166_666),
        ("other quotes", "<a b='" * 166_666),
        ("comments", "<!--" * 250_000),
        ("closed comments", "<!---->" * 140_000),
        ("end tags", "</" * 500_000),
        ("links", '<a href="">' * 90_000),
        ("tables", "<table>" * 140_000),
        ("videos", "<video>" * 140_000),
        ("braces in a sheet", "<style>" + "{" * 10**6),
        ("brackets in a sheet", "<style>" + "({[" * 333_333),
        ("strings in a sheet", "<style>" + '"\\' * 500_000),
        ("comments in a sheet", "<style>" + "/*" * 500_000),
        ("addresses in a sheet", "<style>" + "background:url(" * 66_666),
        ("brackets in an attribute", '<p style="' + "({" * 500_000 + '">'),
        ("digits", '<p style="width:' + "1" * 10**6 + 'x">'),
        ("zeros", '<p style="opacity:' + "0" * 10**6 + 'x">'),
        ("colours", '<p style="color:' + "rgb(1," * 166_666 + '">'),
        ("many blocks", "".join(f'<p style="a:{n}">' for n in range(60_000))),
        ("references", "<p>" + "&" * 10**6),
        ("a long address", '<a href="http://' + "a." * 500_000 + '">' + "www." * 250_000 + "</a>"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_time_is_linear_whatever_the_html(name, text):
    message = Message(to="a@example.com", subject="x", body="x", text="x", html=text)
    start = time.perf_counter()
    lint(message)
    # Half a second at most on a slow machine; what is quadratic takes minutes.
    assert time.perf_counter() - start < 5, name
