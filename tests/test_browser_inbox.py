"""The inbox as a person uses it, in JupyterLab, Notebook 7 and Voilà: a real browser, kernel and server."""

from __future__ import annotations

import smtplib

import pytest
from look import LOOKS, ONCE_A_BIG_FILE, ONCE_AS_LAB, looks_well

from smtp_notebook import Attachment, send
from smtp_notebook.connection import Connection

pytestmark = pytest.mark.browser

INBOX = """from smtp_notebook import Sandbox, inbox
sandbox = Sandbox().start()
box = inbox(sandbox)
print(f"port {sandbox.connection.port}.")
box"""


class Opened:
    """A page with an inbox on it, and the way to its sandbox, which lives in the notebook's kernel."""

    def __init__(self, page):
        self.page = page
        said = page.locator(".jp-OutputArea-output", has_text="port ").first
        self.port = int(said.inner_text(timeout=60_000).strip().removeprefix("port ").rstrip("."))
        self.connection = Connection.from_url(f"smtp+plain://127.0.0.1:{self.port}", sandbox=True)
        shown(page.locator(".smtpnb-inbox"))

    def post(self, subject, **fields):
        """Send a mail there from here."""
        fields = {"to": "ann@example.com", "from_": "me@example.com", "body": f"text of {subject}"} | fields
        send(subject=subject, via=self.connection, **fields)

    def put(self, raw):
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.sendmail("a@example.com", ["b@example.com"], raw)

    def row(self, name):
        return self.page.get_by_role("row", name=name)

    @property
    def mail(self):
        """The inside of the frame that shows the mail."""
        return self.page.frame_locator("iframe.smtpnb-frame:not(.smtpnb-coming)")


@pytest.fixture
def everywhere(frontend):
    """An inbox in each front end in turn, and the front end."""
    with frontend.notebook(INBOX) as page:
        yield Opened(page), frontend


@pytest.fixture
def opened(lab):
    """An inbox in a notebook; see `Opened`."""
    with lab.notebook(INBOX) as page:
        yield Opened(page)


def shown(locator):
    from playwright.sync_api import expect

    expect(locator).to_be_visible(timeout=20_000)


def chosen(row, *, focused=True):
    from playwright.sync_api import expect

    expect(row).to_have_attribute("aria-selected", "true", timeout=20_000)
    if focused:
        expect(row).to_be_focused()


@ONCE_AS_LAB
def test_mails_appear_while_the_page_is_open_and_the_newest_is_shown(everywhere):
    opened, _ = everywhere
    shown(
        opened.page.get_by_text(
            "Nothing has arrived yet. Mails sent to the sandbox never leave this machine."
        )
    )
    opened.post("first")
    shown(opened.row("first"))
    shown(opened.mail.get_by_text("text of first"))
    opened.post("second")
    shown(opened.mail.get_by_text("text of second"))
    rows = opened.page.locator(".smtpnb-mails tbody tr")
    assert [row.split("\n")[0] for row in rows.all_inner_texts()] == ["second", "first"]
    shown(opened.page.get_by_text("2 messages; nothing left this machine"))


def test_mails_appear_while_a_cell_runs(opened):
    code = "import time\nwhile len(sandbox.messages) < 2:\n    time.sleep(0.02)\nprint('over')"
    opened.page.evaluate(
        """code => {
          const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          kernel.requestExecute({code}).done.then(() => { window.over = true; });
        }""",
        code,
    )
    opened.post("in between")
    shown(opened.row("in between"))
    assert opened.page.evaluate("window.over") is None
    opened.post("at the end")
    shown(opened.row("at the end"))
    opened.page.wait_for_function("() => window.over")


def test_a_search_narrows_the_list_while_it_is_typed(opened):
    from playwright.sync_api import expect

    for name in ("apples", "pears", "plums"):
        opened.post(name, body=f"we have **{name}** of Müller")
    shown(opened.row("plums"))
    search = opened.page.get_by_role("textbox", name="Search")
    search.press_sequentially("MÜLLER pears")
    expect(opened.row("apples")).to_have_count(0, timeout=20_000)
    shown(opened.row("pears"))
    shown(opened.page.get_by_text("1 of 3 messages"))
    shown(opened.mail.get_by_text("pears"))
    search.fill("nobody")
    shown(opened.page.get_by_text("Nothing here has “nobody” in it."))
    search.fill("")
    shown(opened.row("apples"))


def test_the_list_and_the_tabs_are_walked_by_keys_while_others_arrive(opened):
    for name in ("one", "two", "three"):
        opened.post(name)
        shown(opened.row(name))
    opened.page.get_by_role("textbox", name="Search").focus()
    opened.page.keyboard.press("Tab")
    keys = opened.page.keyboard
    keys.press("ArrowDown")
    chosen(opened.row("two"))
    keys.press("End")
    chosen(opened.row("one"))
    shown(opened.mail.get_by_text("text of one"))
    opened.post("four")
    shown(opened.row("four"))
    chosen(opened.row("one"))
    keys.press("ArrowUp")
    chosen(opened.row("two"))
    shown(opened.mail.get_by_text("text of two"))
    opened.page.get_by_role("tab", name="Desktop").focus()
    for name in ("Phone", "Dark", "Images off", "Text", "Source"):
        keys.press("ArrowRight")
        chosen(opened.page.get_by_role("tab", name=name))
    shown(opened.page.locator(".smtpnb-source", has_text="Subject: two"))


def test_a_row_is_still_there_to_be_clicked_while_hundreds_arrive(opened):
    opened.post("hold me")
    row = opened.row("hold me")
    shown(row)
    row.hover()
    opened.page.mouse.down()
    for number in range(5):
        opened.put(f"Subject: more {number}\r\n\r\nx".encode())
    shown(opened.row("more 4"))
    element = row.element_handle()
    assert element.evaluate("node => node.isConnected")
    opened.page.mouse.up()
    row.click()
    chosen(row)


HOSTILE = """<p>before</p><script>top.__canary = parent.__canary = 1; fetch('https://example.com/script')</script>
<img src=x onerror="top.__canary = 2; fetch('https://example.com/onerror')">
<svg onload="top.__canary = 3"></svg><a href="javascript:top.__canary=4">press me</a>
<iframe srcdoc="<script>top.__canary = 5</script>"></iframe><meta http-equiv="refresh" content="0;url=https://example.com/refresh">
<form action="https://example.com/form"><button>send</button></form><img src="https://example.com/pixel.png">
<link rel=stylesheet href="https://example.com/sheet.css"><style>p{background:url(https://example.com/bg.png)}</style>
<base href="https://example.com/"><object data="https://example.com/o"></object><p id=after>after</p>"""


@ONCE_AS_LAB
def test_a_hostile_mail_runs_nothing_and_loads_nothing(everywhere):
    opened, frontend = everywhere
    page, title, dialogs = opened.page, opened.page.title(), []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    name = "<img src=x onerror=top.__canary=6>.html"
    raw = (
        f"Subject: {HOSTILE.splitlines()[1]}\r\nTo: <img src=x onerror=top.__canary=7>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        f"{HOSTILE}\r\n--b\r\nContent-Type: text/html\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n{HOSTILE}\r\n--b--\r\n'
    )
    opened.put(raw.encode())
    shown(opened.row("onerror"))
    for tab in ("Desktop", "Phone", "Dark", "Images off"):
        page.get_by_role("tab", name=tab).click()
        shown(opened.mail.locator("#after"))
        opened.mail.get_by_text("press me").press("Enter")
    for tab in ("Text", "Source", "Headers"):
        page.get_by_role("tab", name=tab).click()
        shown(page.get_by_role("tabpanel", name=tab))
    page.get_by_role("textbox", name="Search").fill("<img")
    shown(page.get_by_text("1 of 1 message"))
    shown(page.get_by_text(name, exact=True))
    with page.expect_download() as saved:
        page.get_by_role("button", name=f"Download: {name}").click()
    assert saved.value.path().read_bytes().decode().replace("\r\n", "\n").strip() == HOSTILE
    assert page.evaluate("window.__canary") is None
    assert dialogs == []
    # What the policy refuses the browser tells as a request, too; none of them goes anywhere.
    assert frontend.strange == []
    assert page.title() == title


@ONCE_A_BIG_FILE
def test_files_and_the_whole_mail_are_saved_with_exactly_their_octets(everywhere, mebibytes):
    opened, _ = everywhere
    data = bytes(range(256)) * 4 * 1024 * mebibytes
    opened.post("files", attach=[Attachment(data, "big data.bin"), Attachment("ü,1\n", "Größe.csv")])
    for name, content in (("big data.bin", data), ("Größe.csv", "ü,1\n".encode())):
        with opened.page.expect_download() as saved:
            opened.page.get_by_role("button", name=f"Download: {name}").click()
        assert (saved.value.suggested_filename, saved.value.path().read_bytes()) == (name, content)
    with opened.page.expect_download() as saved:
        opened.page.get_by_role("button", name="Save .eml").click()
    raw = saved.value.path().read_bytes()
    assert saved.value.suggested_filename == "files.eml"
    assert b"Subject: files\r\n" in raw
    assert len(raw) > len(data)


def test_clear_asks_once_and_empties_the_list(opened):
    from playwright.sync_api import expect

    opened.post("one")
    shown(opened.row("one"))
    clear = opened.page.locator(".jupyter-button", has_text="Clear")
    clear.click()
    asked = opened.page.get_by_role("alertdialog", name="Forget 1 message?")
    shown(asked)
    opened.page.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    shown(opened.row("one"))
    clear.click()
    asked.get_by_role("button", name="Clear").click()
    shown(opened.page.get_by_text("Nothing has arrived yet."))
    shown(opened.page.get_by_text("A message is shown here when it arrives."))


# ------------------------------------------------------------------------------- looks and labels


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (700, True)])
def test_nothing_is_cut_off_whatever_the_width(lab, width, dark):
    with lab.notebook(INBOX, width=width, dark=dark) as page:
        opened = Opened(page)
        to = "; ".join(f"someone.with.a.long.name.{i}@department.of.a.company.example.com" for i in range(3))
        opened.post("A subject that is rather long, as they are when people do not think of others", to=to)
        shown(opened.row("A subject"))
        cut = page.evaluate("""() => [...document.querySelectorAll('.smtpnb-inbox td, .smtpnb-inbox button, .smtpnb-inbox label')]
          .filter(node => node.offsetParent && node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== 'auto')
          .map(node => node.textContent)""")
        assert cut == []
        form = page.locator(".smtpnb-inbox").bounding_box()
        pane = page.locator(".smtpnb-inbox .smtpnb-pane").bounding_box()
        assert pane["x"] + pane["width"] <= form["x"] + form["width"] + 1
        assert (pane["y"] > form["y"] + 100) == (width == 700)


def fill(opened, state):
    """Bring the inbox into a state to be looked at."""
    page = opened.page
    if state == "empty":
        return
    to = "; ".join(f"someone.with.a.long.name.{i}@department.of.a.company.example.com" for i in range(4))
    opened.post("A subject that is rather long, as they are when people do not think of others", to=to)
    opened.put(f"Subject: {HOSTILE.splitlines()[1]}\r\nContent-Type: text/html\r\n\r\n{HOSTILE}".encode())
    opened.put(b"Subject: broken\r\nContent-Type: multipart/mixed\r\n\r\nno parts here")
    shown(opened.row("broken"))
    if state == "hostile":
        opened.row("onerror").click()
        shown(opened.mail.locator("#after"))
        return
    name = "a-name-of-a-file-that-somebody-chose-without-a-thought-for-those-who-have-to-read-it-2026.csv"
    files = [Attachment("x" * 3000, name), Attachment(b"x", "b.bin")]
    opened.post("The figures", body="# Figures\n\nThey are **attached**.", attach=files)
    shown(opened.mail.get_by_text("attached"))
    if state == "asking":
        page.get_by_role("tab", name="Headers").click()
        page.locator(".jupyter-button", has_text="Clear").click()
        shown(page.get_by_role("alertdialog"))
    if state == "nothing found":
        page.get_by_role("textbox", name="Search").fill("nobody")
        shown(page.get_by_text("Nothing here has"))


@LOOKS
@pytest.mark.parametrize("state", ["empty", "mails", "hostile", "asking", "nothing found"])
def test_an_inbox_in_any_state_size_and_theme_has_no_grave_fault_and_loses_no_text(lab, state, looks):
    with lab.notebook(INBOX, width=1280, height=1800) as page:
        fill(Opened(page), state)
        looks_well(lab, page, f"inbox-{state.replace(' ', '-')}", height=1800, looks=looks)
