"""How a page looks, and to whom: faults that axe-core finds, text that is cut off, and pictures to look at."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

#: For what takes long and rests on pieces that Notebook 7 shares with JupyterLab: there it is part of `make test-all`.
ONCE_AS_LAB = pytest.mark.parametrize(
    "frontend", ["lab", pytest.param("notebook7", marks=pytest.mark.slow), "voila"], indirect=True
)
#: A front end, and how many MiB a file has there. From 10 on it is more than a message of Jupyter's holds, and goes in pieces;
#: that takes seconds, so once is enough outside of `make test-all`.
ONCE_A_BIG_FILE = pytest.mark.parametrize(
    ("frontend", "mebibytes"),
    [
        ("lab", 12),
        ("voila", 1),
        *(pytest.param(name, 12, marks=pytest.mark.slow) for name in ("notebook7", "voila")),
    ],
    indirect=["frontend"],
)
#: The widths, and whether it is dark, at which `looks_well` looks: each width and each theme once. What is cut off
#: depends on the width and what has too little contrast on the theme, so the other pairs are part of `make test-all`.
LOOKS = pytest.mark.parametrize(
    "looks",
    [
        pytest.param(((1280, False), (700, True)), id="wide and light, narrow and dark"),
        pytest.param(
            ((700, False), (1280, True)), id="narrow and light, wide and dark", marks=pytest.mark.slow
        ),
    ],
)
#: What a cell shows, in JupyterLab, Notebook 7 and Voilà alike.
OUTPUT = ".jp-OutputArea-output"
PICTURES = ROOT / "build" / "pictures"
#: WCAG 2.1, levels A and AA, by axe-core's names; its own "best-practice" is none of them.
_WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
_GRAVE = {"serious", "critical"}
# JupyterLab, Notebook 7 and Voilà say it on the body; elsewhere it is what the system wants.
_IS_DARK = """() => {
  const said = document.body.dataset.jpThemeLight;
  return said ? said === 'false' : matchMedia('(prefers-color-scheme: dark)').matches;
}"""
# JupyterLab's and Notebook 7's bodies have no height and hide what overflows, which browsers apply to the window.
# axe-core takes it by the word, holds everything for invisible, and checks no contrast. The shell is positioned, so
# that nothing moves.
_TALL = """() => {
  const before = document.body.style.minHeight;
  document.body.style.minHeight = '100vh';
  return before;
}"""
_AS_BEFORE = "before => { document.body.style.minHeight = before; }"
# Each line of text, against whatever cuts it between its element and its output, and against the output's edges.
# A line counts as lost where its middle is outside above or below, or any of it at the sides. What scrolls can be
# reached. A box of two pixels is text for screen readers. What stands in an input or select is no text of the
# document: its width is measured.
_LOST = """async ([selector, output]) => {
  await document.fonts.ready;
  const found = new Set();
  const named = e => e.tagName.toLowerCase() + [...e.classList].slice(0, 3).map(c => '.' + c).join('');
  const cuts = how => how === 'hidden' || how === 'clip';
  const scrolls = how => how === 'auto' || how === 'scroll';
  const quoted = words => `'${words.length > 40 ? words.slice(0, 40) + '…' : words}'`;
  const seen = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const inside = e => {
    const r = e.getBoundingClientRect(), left = r.left + e.clientLeft, top = r.top + e.clientTop;
    return {left, top, right: left + e.clientWidth, bottom: top + e.clientHeight};
  };
  const sideways = (line, box) => line.left < box.left - 1 || line.right > box.right + 1;
  const upright = (line, box) => {
    const middle = (line.top + line.bottom) / 2;
    return middle < box.top || middle > box.bottom;
  };

  const fate = (line, from, area) => {
    let free = {x: false, y: false}, leaving = '';
    for (let e = from; e && e !== area.parentElement; e = e.parentElement) {
      const style = getComputedStyle(e);
      const passed = leaving === 'absolute' && style.position === 'static' && style.transform === 'none';
      if (!passed) {
        leaving = '';
        if (e !== area && style.display !== 'inline') {
          if (e.offsetWidth <= 2 && e.offsetHeight <= 2 && cuts(style.overflowX)) return '';
          const box = inside(e);
          if (cuts(style.overflowX) && !free.x && sideways(line, box)) return `is cut by ${named(e)}`;
          if (cuts(style.overflowY) && !free.y && upright(line, box)) return `is cut by ${named(e)}`;
          free = {x: free.x || scrolls(style.overflowX), y: free.y || scrolls(style.overflowY)};
        }
        if (style.position === 'fixed') return '';
        if (style.position === 'absolute') leaving = 'absolute';
      }
    }
    const box = area.getBoundingClientRect();
    const out = (!free.x && sideways(line, box)) || (!free.y && upright(line, box));
    return out ? `reaches outside ${named(area)}` : '';
  };

  const texts = root => {
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const words = walk.currentNode.textContent.trim().replace(/\\s+/g, ' ');
      const parent = walk.currentNode.parentElement;
      if (!words || parent.closest('script, style, template, textarea, select, title') || !seen(parent)) continue;
      const range = document.createRange();
      range.selectNodeContents(walk.currentNode);
      const area = parent.closest(output) ?? root;
      for (const line of range.getClientRects()) {
        const why = line.width && fate(line, parent, area);
        if (why) found.add(`${quoted(words)} in ${named(parent)} ${why}`);
      }
    }
  };

  const pen = document.createElement('canvas').getContext('2d');
  const fields = root => {
    const every = 'input, select, textarea';
    for (const e of [...(root.matches(every) ? [root] : []), ...root.querySelectorAll(every)]) {
      if (!seen(e)) continue;
      const isButton = ['button', 'submit', 'reset'].includes(e.type);
      const words = e.tagName === 'SELECT' ? (e.size > 1 || e.multiple ? '' : e.selectedOptions[0]?.text ?? '')
        : isButton || e.value ? (isButton ? e.value : '') : e.tagName === 'TEXTAREA' ? '' : e.placeholder ?? '';
      if (!words) continue;
      const style = getComputedStyle(e);
      pen.font = style.font;
      const room = e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      if (pen.measureText(words).width > room + 1) found.add(`${quoted(words)} in ${named(e)} is wider than its field`);
    }
  };

  const roots = [...document.querySelectorAll(selector)];
  if (!roots.length) throw new Error(`nothing on this page is ${selector}`);
  for (const root of roots) { texts(root); fields(root); }
  return [...found];
}"""


def axe(page, selector=OUTPUT):
    """Return what axe-core finds below *selector*, one line for each element: rule, element, what to mend.

    Only faults of WCAG 2.1 A and AA are told, and of those the ones that axe-core calls serious or critical.
    A mail inside an iframe is not looked at: it is the sender's. So is the page around *selector*.
    """
    from axe_playwright_python.sync_playwright import Axe

    options = {
        "runOnly": {"type": "tag", "values": _WCAG},
        "resultTypes": ["violations"],
        "iframes": False,
    }
    before = page.evaluate(_TALL)
    try:
        result = Axe().run(page, context={"include": [[selector]]}, options=options)
    finally:
        page.evaluate(_AS_BEFORE, before)
    return [
        f"{found['id']}: {' '.join(map(str, node['target']))}: {' '.join(node['failureSummary'].split())}"
        for found in result.response["violations"]
        for node in found["nodes"]
        if found["impact"] in _GRAVE
    ]


def no_text_lost(page, selector=OUTPUT):
    """Return the texts below *selector* that a person cannot read whole, one line each; it should be empty.

    A text is lost where something cuts it and nothing scrolls to it, where it reaches outside its cell's output,
    or where an input's hint or a menu's choice is wider than its field. *page* may be a frame.
    """
    return page.evaluate(_LOST, [selector, OUTPUT])


def looks_well(lab, page, name, *, height, looks):
    """Have what *page* shows be whole and without grave faults at each width and theme of *looks*; picture each."""
    for width, dark in looks:
        lab.shows_as(page, width=width, height=height, dark=dark)
        picture(page, name)
        assert axe(page, ".smtpnb-form") == [], (width, dark)
        assert no_text_lost(page, ".smtpnb-form") == [], (width, dark)


def picture(shown, name):
    """Write what *shown* looks like, a page or a locator, to ``build/pictures``, and return the path.

    The file is ``NAME-WIDTH-light.png`` or ``-dark``, after the window's width and the theme; NAME says what it is,
    and in which front end. What is longer than the window is cut: open the notebook with enough height.
    """
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
    page = getattr(shown, "page", shown)
    scheme = "dark" if page.evaluate(_IS_DARK) else "light"
    path = PICTURES / f"{name}-{page.viewport_size['width']}-{scheme}.png"
    shown.screenshot(path=path, animations="disabled", caret="hide")
    return path
