"""The e-mail form as a person uses it, in JupyterLab, Notebook 7 and Voilà: a real browser, kernel and server."""

from __future__ import annotations

import json
import re

import pytest
from look import LOOKS, ONCE_A_BIG_FILE, ONCE_AS_LAB, looks_well
from scripted import Server as Scripted

pytestmark = pytest.mark.browser

FRAME = "iframe.smtpnb-frame:not(.smtpnb-coming)"  # a newer one may be loading behind it
CANARY = "canary-c0rrect-h0rse"
HOSTILE = """<p>before</p><script>top.__canary = parent.__canary = 1; fetch('https://example.com/script')</script>
<img src=x onerror="top.__canary = 2; fetch('https://example.com/onerror')">
<svg onload="top.__canary = 3"></svg><a href="javascript:top.__canary=4">press me</a>
<iframe srcdoc="<script>top.__canary = 5</script>"></iframe><meta http-equiv="refresh" content="0;url=https://example.com/refresh">
<form action="https://example.com/form"><button>send</button></form><img src="https://example.com/pixel.png">
<link rel=stylesheet href="https://example.com/sheet.css"><style>p{background:url(https://example.com/bg.png)}</style>
<base href="https://example.com/"><object data="https://example.com/o"></object><p id=after>after</p>"""


def cell(server="", **fields):
    """Return a cell that shows a form; *server* is the port of one on this machine, else the notebook's sandbox."""
    via = f"via='smtp+plain://127.0.0.1:{server}', " if server else ""
    given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return f"from smtp_notebook import email_form\nform = email_form({via}{given})\nform"


def shown(locator):
    from playwright.sync_api import expect

    expect(locator).to_be_visible(timeout=20_000)


def send(page, words):
    """Press Send and say yes to *words*."""
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name=words).click()


# ------------------------------------------------------------------------------- from first to last


@ONCE_A_BIG_FILE
def test_a_mail_is_composed_and_the_server_receives_exactly_that(frontend, mebibytes, sandbox, tmp_path):
    big = bytes(range(256)) * 4 * 1024 * mebibytes
    # Playwright hands a file's path to the browser at once; of its octets it makes JSON, which takes seconds.
    (tmp_path / "big.bin").write_bytes(big)
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    with frontend.notebook(cell(sandbox.connection.port, from_="me@example.com")) as page:
        to = page.get_by_role("textbox", name="To", exact=True)
        to.fill("Ann Smith <ann@example.com>")
        to.press("Enter")
        shown(page.get_by_role("button", name="Remove Ann Smith <ann@example.com>"))
        to.fill("bob@example.com, carl@example.org")
        page.get_by_role("textbox", name="Subject").fill("Grüße 🎉")
        body = page.get_by_role("textbox", name="Body")
        body.fill("Dear all,\n\nthis matters")
        body.press("End")
        body.press("Shift+Control+ArrowLeft")
        page.get_by_role("button", name="Bold").click()
        page.locator(".smtpnb-drop input").first.set_input_files([tmp_path / "big.bin", tmp_path / "a.csv"])
        shown(page.get_by_text(f"{mebibytes}.0 MB", exact=True))
        shown(page.frame_locator(FRAME).get_by_text("matters", exact=True))
        page.get_by_role("button", name="Send", exact=True).click()
        asked = page.get_by_role("alertdialog", name="Send this mail to 3 recipients?")
        shown(asked)
        assert "Grüße 🎉" in asked.inner_text()
        assert "127.0.0.1" in asked.inner_text()
        assert sandbox.messages == ()
        asked.get_by_role("button", name="Send to 3 recipients").click()
        shown(page.locator(".smtpnb-pill", has_text="sent"))
        assert frontend.strange == []
    (mail,) = sandbox.messages
    assert mail.recipients == ("ann@example.com", "bob@example.com", "carl@example.org")
    assert mail.header("to") == "Ann Smith <ann@example.com>, bob@example.com, carl@example.org"
    assert (mail.header("from"), mail.header("subject")) == ("me@example.com", "Grüße 🎉")
    assert mail.body("plain").split() == ["Dear", "all,", "this", "**matters**"]
    assert ">matters</strong>" in mail.body("html")
    assert [(n, t, c) for n, t, c, _ in mail.files()] == [
        ("big.bin", "application/octet-stream", big),
        ("a.csv", "text/csv", b"1,2\n"),
    ]


def test_a_pasted_column_becomes_chips_and_a_bad_one_says_why(lab):
    with lab.notebook(cell()) as page:
        to = page.get_by_role("textbox", name="To", exact=True)
        page.evaluate("navigator.clipboard.writeText('ann@example.com\\nbob@example\\ncarl@')")
        to.press("Control+v")
        shown(page.get_by_role("button", name="Remove carl@"))
        assert page.locator(".smtpnb-chip").count() == 3
        shown(page.get_by_text(re.compile("nothing stands after the @")))
        to.press("Backspace")
        assert to.input_value() == "carl@"
        to.fill("carl@example.org")
        to.press(";")
        shown(page.get_by_role("button", name="Remove carl@example.org"))
        assert to.input_value() == ""


def test_a_form_can_be_used_by_keyboard_alone(lab, sandbox):
    with lab.notebook(cell(sandbox.connection.port, from_="me@example.com")) as page:
        page.get_by_role("textbox", name="To", exact=True).focus()
        keys = page.keyboard
        keys.type("ann@example.com,")
        for _ in ("Cc", "Bcc", "From"):
            keys.press("Tab")
        keys.press("Tab")
        keys.type("By keys")
        page.get_by_role("textbox", name="Body").focus()
        keys.type("hello")
        keys.press("Control+a")
        keys.press("Control+b")
        assert page.get_by_role("textbox", name="Body").input_value() == "**hello**"
        send_button = page.get_by_role("button", name="Send", exact=True)
        send_button.focus()
        keys.press("Enter")
        shown(page.get_by_role("alertdialog"))
        keys.press("Escape")
        page.get_by_role("alertdialog").wait_for(state="hidden")
        assert page.evaluate("document.activeElement.textContent") == "Send"
        keys.press("Enter")
        shown(page.get_by_role("alertdialog"))
        keys.press("Tab")
        keys.press("Enter")
        shown(page.locator(".smtpnb-pill", has_text="sent"))
    assert [m.header("subject") for m in sandbox.messages] == ["By keys"]


# -------------------------------------------------------------------------------------- the preview


@ONCE_AS_LAB
def test_a_hostile_mail_is_previewed_and_nothing_of_it_runs_or_loads(frontend):
    with frontend.notebook(cell(to="a@example.com", body=HOSTILE, format="html")) as page:
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        for tab in ("Desktop", "Phone", "Dark", "Images off"):
            page.get_by_role("tab", name=tab).click()
            inside = page.frame_locator(FRAME)
            shown(inside.locator("#after"))
            inside.get_by_text("press me").press("Enter")
        for tab in ("Text", "Source", "Headers"):
            page.get_by_role("tab", name=tab).click()
            shown(page.get_by_role("tabpanel", name=tab))
        assert page.evaluate("window.__canary") is None
        assert (frontend.strange, dialogs) == ([], [])
        page.get_by_role("tab", name="Desktop").click()
        shown(page.frame_locator(FRAME).locator("#after"))
        assert page.locator(FRAME).get_attribute("sandbox") == ""


def test_the_tabs_show_widths_darkness_images_text_source_and_headers(lab):
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    body = f"# Title\n\n![a dot]({pixel})\n"
    with lab.notebook(cell(to="a@example.com", subject="S", body=body), width=1700) as page:
        frame = page.locator(FRAME)
        inside = page.frame_locator(FRAME)

        def ground():
            shown(inside.get_by_role("heading", name="Title"))
            return inside.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")

        assert (ground(), frame.evaluate("e => e.offsetWidth")) == ("rgb(255, 255, 255)", 600)
        page.get_by_role("tab", name="Phone").click()
        assert (ground(), frame.evaluate("e => e.offsetWidth")) == ("rgb(255, 255, 255)", 360)
        page.get_by_role("tab", name="Dark").click()
        assert ground() == "rgb(13, 17, 23)"
        assert inside.locator("img").evaluate("e => e.naturalWidth") == 1
        page.get_by_role("tab", name="Images off").click()
        ground()
        assert inside.locator("img").evaluate("e => e.naturalWidth") == 0
        page.get_by_role("tab", name="Images off").press("ArrowRight")
        shown(page.locator(".smtpnb-pre", has_text="Title"))
        assert page.get_by_role("tab", name="Text", exact=True).get_attribute("aria-selected") == "true"
        page.keyboard.press("ArrowRight")
        shown(page.locator(".smtpnb-source", has_text="Subject: S"))
        page.keyboard.press("End")
        shown(page.locator(".smtpnb-headers dd", has_text="a@example.com"))


def test_a_light_preview_is_light_on_a_dark_screen(lab):
    with lab.notebook(cell(to="a@example.com", body="# Title"), dark=True) as page:
        inside = page.frame_locator(FRAME)
        shown(inside.get_by_role("heading", name="Title"))
        ground = inside.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == "rgb(255, 255, 255)"


@ONCE_AS_LAB
def test_the_preview_follows_what_is_typed_and_code_follows_the_form(frontend):
    with frontend.notebook(cell(to="a@example.com", subject="S")) as page:
        page.get_by_role("textbox", name="Body").fill("# Big news")
        shown(page.frame_locator(FRAME).get_by_role("heading", name="Big news"))
        page.get_by_role("button", name="Copy as code").click()
        shown(page.get_by_text('body="# Big news"'))
        page.get_by_role("button", name="Copy", exact=True).click()
        shown(page.get_by_text("Copied."))
        assert 'send(\n    to="a@example.com",' in page.evaluate("navigator.clipboard.readText()")


def test_code_and_form_change_the_same_mail(lab):
    source = cell(to="a@example.com", subject="S", body="first")
    back = "from smtp_notebook import Message\nform.message = Message(to='b@example.com', body='**second**')"
    with lab.notebook(source, back, "print('subject now:', repr(form.message.subject))") as page:
        shown(page.get_by_text("subject now: ''"))
        shown(page.frame_locator(FRAME).get_by_text("second", exact=True))
        shown(page.get_by_role("button", name="Remove b@example.com"))
        assert page.get_by_role("textbox", name="Body").input_value() == "**second**"


# -------------------------------------------------------------------------------------- passwords


@pytest.mark.parametrize("name", ["lab", pytest.param("notebook7", marks=pytest.mark.slow)])
def test_a_password_is_in_no_saved_notebook_no_widget_state_no_output_and_no_history(name, request):
    front = request.getfixturevalue(name)
    login = {"to": "a@example.com", "from_": "me@example.com", "subject": "S", "body": "x"}
    look = f"""import json, io, contextlib
from ipywidgets import Widget
hidden = {CANARY[::-1]!r}[::-1]
history = get_ipython().history_manager
found = json.dumps(Widget.get_manager_state(), default=str) + repr(form) + repr(vars(form)) + form.code()
found += repr(list(history.get_range(raw=True))) + repr(list(history.input_hist_raw)) + repr(Out)
print("hidden" if hidden not in found else "LEAKED")"""
    with Scripted(login=("ann", CANARY), offers=["AUTH PLAIN", "PIPELINING"]) as server:
        source = cell(**login).replace(
            "email_form(to", f"email_form(via='smtp+plain://ann@127.0.0.1:{server.port}', to"
        )
        assert "via=" in source
        with front.notebook(source) as page:
            send(page, "Send to 1 recipient")
            field = page.get_by_label("Password of ann at 127.0.0.1")
            shown(field)
            assert field.get_attribute("type") == "password"
            field.fill(CANARY)
            field.press("Enter")
            shown(page.locator(".smtpnb-pill", has_text="sent"))
            assert field.input_value() == ""
            page.evaluate(
                """async source => {
                  const app = window.jupyterapp;
                  await app.commands.execute('notebook:insert-cell-below');
                  app.shell.currentWidget.content.activeCell.model.sharedModel.setSource(source);
                  await app.commands.execute('notebook:run-cell');
                }""",
                look,
            )
            shown(page.get_by_text("hidden", exact=True))
            saved = front.saved(page)
        assert "widget-state" in saved
        assert "Password of ann" in saved, "the state of the part that asks is there"
        assert CANARY not in saved
        assert CANARY not in json.dumps(json.loads(saved))
        assert len(server.log.mails) == 1


# ------------------------------------------------------------------------------- looks and labels


STATES = {
    "empty": cell(),
    "filled": cell(
        to="Ann Smith <ann@example.com>; bob@example.org; nobody@",
        cc="carl@example.com",
        subject="The quarter",
        body="Dear Ann,\n\nthe **quarter** is in:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n![](https://example.com/x.png)",
        preheader="Up by a tenth",
        unsubscribe="https://example.com/u",
        bulk=True,
        list_id="News <news.example.com>",
        feedback_id="c:u:news:sender",
        postal_address="1 High Street",
    ),
    "asking": cell(to="ann@example.com", subject="A subject of some length, as people write them", body="x"),
    "error": cell(1, to="ann@example.com", from_="me@example.com", subject="S", body="x"),
}


@LOOKS
@pytest.mark.parametrize("state", STATES)
def test_a_form_in_any_state_size_and_theme_has_no_grave_fault_and_loses_no_text(lab, state, looks):
    with lab.notebook(STATES[state], width=1280, height=2200) as page:
        shown(page.get_by_role("button", name="Send", exact=True))
        if state == "filled":
            shown(page.frame_locator(FRAME).get_by_text("quarter", exact=True))
        if state == "asking":
            page.get_by_role("button", name="Copy as code").click()
            page.get_by_role("button", name="Send", exact=True).click()
            shown(page.get_by_role("alertdialog"))
        if state == "error":
            send(page, "Send to 1 recipient")
            shown(page.locator(".smtpnb-status", has_text="cannot be reached"))
        looks_well(lab, page, f"email-form-{state}", height=2200, looks=looks)
