"""The gallery notebook as it arrives: its parts, its twins, and how it looks in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import re

import gallery
import pytest
from lxml import html as lxml_html

from smtp_notebook import Message
from smtp_notebook.lint import lint

pytestmark = pytest.mark.notebook

IMAGES = {"figure", "axes", "seaborn_grid", "altair_chart", "plotnine_plot", "plotly_figure", "photograph", "vector_graphic",
          "formula", "several"}  # fmt: skip
TEXTS = {
    "frame": "Region   Leads  Won    Revenue  Since\n-------  -----  ---  ---------  ----------\nNordics    412   96  184200.00  2026-01-12\n",
    "series": "Region   Leads\n",
    "styler": "Region   Leads  Won\n",
    "great_table": "Leads by region\nFirst quarter\nRegion ",
    "polars_frame": "東京        14.20\n",
    "arrow_table": "Starter      3\n",
    "figure": "[Revenue by region]",
    "axes": "[Won of all leads]",
    "seaborn_grid": "[Won by region]",
    "altair_chart": "[Won by region]",
    "plotnine_plot": "[Leads by region]",
    "plotly_figure": "[Revenue since]",
    "photograph": "[Image]",
    "vector_graphic": "[SVG]",
    "formula": r"\int_0^1 x^2\,dx = \frac{1}{3}",
    "markdown": "A table from **Markdown**:",
    "mapping": '"score": 0.91',
    "several": "and its figure:",
}

# What a reader sees of each text: its colour on whatever lies behind it (WCAG 2.1, 1.4.3).
_CONTRAST = """() => {
  const parse = c => { const m = c.match(/[0-9.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const over = (top, under) => { const a = top[3]; return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a)).concat(1); };
  const light = c => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
  const behind = node => { const layers = [];
    for (let e = node; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, parent = node.parentElement;
    if (!node.textContent.trim() || !parent.getClientRects().length) continue;
    const ground = behind(parent), ink = over(parse(getComputedStyle(parent).color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
_BROKEN = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).length"


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    found = gallery.run(tmp_path_factory.mktemp("mails"))
    return {str(m["Subject"]).removeprefix("Result: "): m for m in found}


def html_of(message):
    return message.get_body(("html",)).get_content()


def test_one_of_each_arrived(mails):
    assert set(TEXTS) | {"The quarter"} <= set(mails)
    assert set(mails) - set(TEXTS) - {"The quarter"} <= {"bokeh_plot"}, "that one wants a browser's driver"


def test_the_parts_are_what_they_should_be(mails):
    for name, message in mails.items():
        tree = [p.get_content_type() for p in message.walk()]
        assert tree[:2] == ["multipart/alternative", "text/plain"], name
        if name in IMAGES:
            assert tree[2:4] == ["multipart/related", "text/html"], name
            assert set(tree[4:]) == {"image/png"}, name
        elif name in TEXTS:
            assert tree[2:] == ["text/html"], name
        assert len(message.as_bytes()) < 200_000, name


def test_every_image_is_used_and_every_reference_resolves(mails):
    for name, message in mails.items():
        there = {str(p["Content-ID"]).strip("<>") for p in message.walk() if p["Content-ID"]}
        used = set(re.findall(r"cid:([^\"']+)", html_of(message)))
        assert there == used, name
        for image in lxml_html.fromstring(html_of(message)).iter("img"):
            assert image.get("alt"), name
            assert 0 < int(image.get("width")) <= 568, name
            assert int(image.get("height")) > 0, name


def test_nothing_lives_in_them(mails):
    for name, message in mails.items():
        root = lxml_html.fromstring(html_of(message))
        tags = {e.tag for e in root.iter() if isinstance(e.tag, str)}
        assert not tags & {"script", "iframe", "object", "form", "input", "svg", "link", "video"}, name
        assert not [a for e in root.iter() for a in e.attrib if a.startswith("on")], name
        assert not re.search(r"(?:src|href)=[\"'](?!https://example\.com/|cid:)", html_of(message)), name


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_twin_says_the_same_and_is_aligned(mails, name):
    text = mails[name].get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert TEXTS[name] in text
    assert f"this is what `{name}` gives" in text
    assert text.endswith("Kind regards\n\n-- \nUnsubscribe: https://example.com/unsubscribe?list=results\n")


def test_mail_programs_understand_all_of_it(mails):
    """What Gmail, Outlook or Apple Mail lack, as caniemail.com says, has something that stands in for it."""
    for name, message in mails.items():
        parts = [p for p in message.walk() if p["Content-ID"]]
        inline = [(p.get_payload(decode=True), str(p["Content-ID"]).strip("<>")) for p in parts]
        from smtp_notebook import Attachment

        again = Message(
            to="ann@example.com",
            from_="results@example.com",
            subject=str(message["Subject"]),
            body=html_of(message),
            format="html",
            inline_css=False,
            inline=[
                Attachment(content, f"{i}.png", content_id=cid) for i, (content, cid) in enumerate(inline)
            ],
        )
        assert [str(f) for f in lint(again)] == [], name


@pytest.fixture(scope="module")
def pages(chromium):
    with gallery.browser(chromium) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("scheme", gallery.SCHEMES)
@pytest.mark.parametrize("width", gallery.WIDTHS)
def test_it_fits_and_can_be_read(mails, pages, width, scheme):
    view = pages.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    for name, message in mails.items():
        view.set_content(gallery.page(message))
        assert view.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is too wide"
        assert view.evaluate(_BROKEN) == 0, f"{name} has a broken image"
        assert view.evaluate(_CONTRAST) == [], f"{name} has text that can hardly be read"
    view.close()
