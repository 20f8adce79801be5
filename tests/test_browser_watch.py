"""A watch in a notebook's page: its display goes on after its cell is done, and a saved notebook has its last state."""

from __future__ import annotations

import json

import pytest

# What a kernel sends is in test_watch_kernel; here a page shows it.
pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELL = """
from smtp_notebook import Sandbox, watch
rows = [{{"Id": f"L{{i}}", "Email": f"u{{i}}@example.com"}} for i in range(3)]
box = Sandbox().start()
def leads():
    return list(rows)
welcome = watch(leads, "---\\nsubject: Hi\\n---\\nDear {{{{ Id }}}}", every={every}, campaign="welcome", key="Id", via=box,
                from_="me@example.com", max_per_poll=2)
welcome.start()
"""


def test_a_display_lives_on_after_its_cell_and_a_saved_notebook_has_its_last_state(lab):
    # Whoever is there at the first poll is not mailed.
    begun = "while welcome.status.polls < 1: pass"
    grows = "rows += [{'Id': f'M{i}', 'Email': f'v{i}@example.com'} for i in range(2)]"
    ends = "welcome.stop()"
    with lab.notebook(
        CELL.format(every=1), begun, grows, "while welcome.status.sent < 2: pass", ends
    ) as page:
        shown = page.locator(".jp-OutputArea-output >> text=2 sent")
        shown.wait_for(timeout=30_000)
        page.locator(".jp-OutputArea-output >> text=stopped").wait_for(timeout=30_000)
        saved = json.loads(lab.saved(page))
    texts = ["".join(o["data"]["text/plain"]) for c in saved["cells"] for o in c["outputs"] if "data" in o]
    assert len(texts) == 1, "one display, written over"
    assert texts[0].startswith("welcome: stopped; 2 sent")
    assert "Practice" in texts[0]
