"""How long a person waits for the form: its first sight, and the preview after a key, in a real browser."""

from __future__ import annotations

import shutil
import sys
from statistics import median
from typing import Any

from legs import Goal, Scale, Table
from measure import ROOT, Bench, say

sys.path.insert(0, str(ROOT / "tests"))

SHOWN_GOAL, KEY_GOAL = 1000.0, 150.0
_BODY = 20 * 1024
_PARAGRAPH = "Some **bold** words, a [link](https://example.com/page) and *more* of them in a sentence.\n\n"
#: The first cell loads what every form needs; the second is what is measured.
_CELLS = (
    "from smtp_notebook import email_form",
    f"""body = {_PARAGRAPH!r} * {_BODY // len(_PARAGRAPH)}
form = email_form(to="ann@example.com", subject="S", body=body)
form""",
)
# From the moment at which the cell is asked to run until the form and its preview are drawn.
_SHOWN = """async () => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  panel.content.activeCellIndex = 1;
  const began = performance.now();
  const drawn = new Promise(done => {
    const look = () => document.querySelector('.jp-OutputArea-output iframe.smtpnb-frame') ? done() : requestAnimationFrame(look);
    look();
  });
  app.commands.execute('notebook:run-cell');
  await drawn;
  return performance.now() - began;
}"""
# From a key in the body until a frame with that text has loaded.
_KEY = """async word => {
  const area = document.querySelector('.smtpnb-area'), stage = document.querySelector('.smtpnb-stage');
  area.focus();
  area.setSelectionRange(0, 0);
  area.setRangeText(word, 0, 0, 'end');
  const began = performance.now();
  const drawn = new Promise(done => {
    const look = () => {
      const frame = [...stage.querySelectorAll('iframe')].at(-1);
      if (!frame || !frame.srcdoc.includes(word)) return requestAnimationFrame(look);
      frame.classList.contains('smtpnb-coming') ? frame.addEventListener('load', () => done(), {once: true}) : done();
    };
    requestAnimationFrame(look);
  });
  area.dispatchEvent(new InputEvent('input', {bubbles: true}));
  await drawn;
  return performance.now() - began;
}"""


def forms(bench: Bench, scale: Scale, size: int) -> Table:  # noqa: ARG001 - every leg is called alike
    """Measure the e-mail form in JupyterLab."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return Table("The form in a browser", ("what", "ms"), [], "No Chromium is here.")
    say("The form in a browser")
    shown, keys = _measured(chromium, bench, scale.starts)
    rows = [
        ("form with a body of 20 kB drawn, its preview too, after the call", *_three(shown)),
        ("preview drawn after a key in that body", *_three(keys)),
    ]
    goals = [
        Goal("form shown after its call", f"≤ {SHOWN_GOAL:,.0f} ms", f"{median(shown):,.0f} ms", median(shown) <= SHOWN_GOAL),
        Goal("preview after a key in 20 kB", f"≤ {KEY_GOAL:,.0f} ms", f"{median(keys):,.0f} ms", median(keys) <= KEY_GOAL),
    ]  # fmt: skip
    note = "JupyterLab and its kernel on the same machine, Chromium headless; measured in the page."
    return Table("The form in a browser", ("what", "median, ms", "least", "most"), rows, note, goals)


def _measured(chromium: str, bench: Bench, times: int) -> tuple[list[float], list[float]]:
    import os

    from lab import Lab, running_browser, running_server

    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(bench.environment)
    try:
        folder = bench.folder / "notebooks"
        folder.mkdir()
        with running_server(bench.folder, folder) as server, running_browser(chromium) as browser:
            return _in_a_page(Lab(server, browser), times)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _in_a_page(lab: Any, times: int) -> tuple[list[float], list[float]]:
    with lab.notebook(*_CELLS) as page:
        page.locator("iframe.smtpnb-frame").first.wait_for(timeout=60_000)
        shown = []
        for _ in range(times):
            # A cell that runs again takes its old output away only when the new one is there.
            page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
            page.locator("iframe.smtpnb-frame").wait_for(state="detached")
            shown.append(page.evaluate(_SHOWN))
        keys = [page.evaluate(_KEY, f"word{number} ") for number in range(times + 1)]
        return shown, keys[1:]


def _three(found: list[float]) -> tuple[str, str, str]:
    return f"{median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}"
