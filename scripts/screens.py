"""Make the pictures of the forms that README and the documentation show: ``screens.py``, or ``make pictures``.

JupyterLab runs with folders of its own; everything goes to the sandbox inside the notebook. The pictures lie in
docs/pictures.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from isolated import environment
from system_packages import find_chromium

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
PICTURES = ROOT / "docs" / "pictures"
LEADS = ROOT / "notebooks" / "data" / "leads.csv"

MERGE = f'''import pandas as pd
from smtp_notebook import connect, merge_form
connect("sandbox", rate="1500/min")
leads = pd.read_csv({str(LEADS)!r}, dtype={{"PostalCode": str}})
merge_form(leads, """---
to: {{{{ Name }}}} <{{{{ Email }}}}>
from: Nora Lind <nora.lind@example.com>
subject: Welcome, {{{{ FirstName | default(LastName) }}}}
---
Dear {{{{ FirstName | default(LastName) }}}},

thank you for your interest{{% if Company %}} on behalf of **{{{{ Company }}}}**{{% endif %}}.
We will call you this week.

Kind regards
Nora Lind
""", key="Id")'''
MAIL = '''import matplotlib.pyplot as plt, pandas as pd
from smtp_notebook import inbox, send, Template
sales = pd.DataFrame({"Region": ["North", "South", "East", "West"], "Orders": [312, 287, 341, 198],
                      "Change": ["+4 %", "+11 %", "+2 %", "−3 %"]})
figure, axes = plt.subplots(figsize=(5.4, 2.4), layout="constrained")
axes.bar(sales["Region"], sales["Orders"], color="#1f6feb")
axes.spines[["top", "right"]].set_visible(False)
axes.set_title("Orders by region")
plt.close(figure)
letter = Template(body="""# The week in numbers

Dear Ann, **1,138 orders** came in; the South grew most.

{{ sales }}

{{ figure }}""", subject="The week in numbers", to="Ann Smith <ann@example.com>", from_="Nora Lind <nora.lind@example.com>")
send(subject="Minutes of Monday", to="team@example.com", from_="nora.lind@example.com", body="Dear all, …")
send(subject="Welcome, Ben", to="ben@example.org", from_="nora.lind@example.com", body="Dear Ben, …")
send(letter.fill({"sales": sales, "figure": figure}))
inbox()'''


def main() -> None:
    """Open the notebooks, and picture what they show."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("No Chromium is here: apt install chromium.")
    from lab import Lab, running_browser, running_server

    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screens-") as folder:
        root = Path(folder)
        os.environ.update(environment(root))
        shown = root / "shown"
        shown.mkdir()
        with running_server(root, shown) as server, running_browser(chromium) as browser:
            lab = Lab(server, browser)
            with lab.notebook(MERGE, width=1280, height=1800) as page:
                lab.put_aside(page)
                _merge(page)
            with lab.notebook(MAIL, width=1280, height=1400) as page:
                lab.put_aside(page)
                _mail(page)
    print(f"Written: {PICTURES.relative_to(ROOT)}")


def _merge(page: Any) -> None:
    """Picture a merge that is being sent."""
    page.get_by_label(re.compile("Send the good rows")).check(timeout=60_000)
    for _ in range(3):
        page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("button", name=re.compile(r"^Send \d+ mails")).click()
    page.get_by_role("alertdialog").get_by_role("button", name=re.compile("^Send")).click()
    page.get_by_text(re.compile(r"^1[0-4]\d of 249")).wait_for(timeout=60_000)
    page.locator(".smtpnb-form").screenshot(path=PICTURES / "merge-form.png", animations="disabled")


def _mail(page: Any) -> None:
    """Picture the inbox with a mail that has arrived."""
    inside = page.frame_locator("iframe.smtpnb-frame:not(.smtpnb-coming)")
    inside.get_by_role("heading", name="The week in numbers").wait_for(timeout=60_000)
    inside.locator("img").wait_for()
    page.locator(".smtpnb-form").screenshot(path=PICTURES / "mail.png", animations="disabled")


if __name__ == "__main__":
    main()
