"""Signing in from a cell of a live kernel: what is shown, what is asked, and how it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape

import pytest
import trustme
from authority import CLIENT, Authority
from test_kernel import live_kernel

pytestmark = pytest.mark.notebook

CA = trustme.CA()


@dataclass
class Shown:
    """What a cell showed, in order, and its error."""

    bundles: list[dict[str, str]] = field(default_factory=list)
    error: str = ""
    words: str = ""


@pytest.fixture(scope="module")
def kernel():
    with live_kernel() as found:
        yield found


@pytest.fixture
def authority(tmp_path):
    with Authority(CA, tmp_path, interval=0) as found:
        yield found


def run(kernel, code, *, once=lambda _: None, asked=lambda _: "", somebody=True):
    """Run a cell: *once* gets what it shows first, *asked* answers what it asks."""
    found = Shown()

    def note(message):
        content = message["content"]
        if message["msg_type"] in {"display_data", "update_display_data"}:
            found.bundles.append(content["data"])
            if len(found.bundles) == 1:
                once(content["data"])
        elif message["msg_type"] == "error":
            found.error, found.words = content["ename"], content["evalue"]

    def answer(message):
        assert message["content"]["password"], "what is typed there is not shown"
        while not found.bundles:  # what is asked comes by another way than what is shown, and may be quicker
            note(kernel.client.get_iopub_msg(timeout=10))
        kernel.client.input(asked(found.bundles[0]))

    kernel.client.execute_interactive(
        code, timeout=30, output_hook=note, stdin_hook=answer, allow_stdin=somebody
    )
    return found


def connecting(way, more=""):
    return f"""from smtp_notebook import GoogleOAuth, MicrosoftOAuth, connect
made = connect("smtp://ann@example.com@mail.example.com", oauth={way})
{more}"""


def google(authority, more=""):
    return f"GoogleOAuth({str(authority.client_file)!r}, ca_file={authority.ca_file!r}{more})"


def microsoft(authority):
    return f"MicrosoftOAuth({CLIENT!r}, authority={authority.url!r}, ca_file={authority.ca_file!r})"


def test_a_code_is_shown_with_a_link_and_as_text_until_somebody_typed_it(kernel, authority):
    authority.approved.clear()
    found = run(kernel, connecting(microsoft(authority)), once=lambda _: authority.approved.set())
    assert found.error == ""
    first, last = found.bundles
    assert "ABCD-EFGH" in first["text/plain"]
    assert f'<a href="{authority.url}/device" target="_blank"' in first["text/html"]
    assert "ABCD-EFGH" in first["text/html"]
    assert "<script" not in first["text/html"]
    # The code is written over: it is not kept in the notebook.
    assert last["text/plain"].startswith("Signed in as ann@example.com.")
    assert "ABCD-EFGH" not in last["text/html"]


def test_an_address_is_pasted_where_nobody_sees_it(kernel, authority):
    def elsewhere(bundle):
        (address,) = re.findall(r'href="([^"]+)"', bundle["text/html"])
        return authority.led_to(unescape(address))

    found = run(kernel, connecting(google(authority, ", paste=True")), asked=elsewhere)
    assert found.error == ""
    assert found.bundles[-1]["text/plain"].startswith("Signed in as")
    assert len(authority.issued) == 1


def test_a_kernel_where_nobody_answers_says_so_at_once(kernel, authority):
    found = run(kernel, connecting(microsoft(authority)), somebody=False)
    assert (found.error, found.bundles) == ("SecretError", [])
    assert "nobody can be asked" in found.words
    assert authority.requests == []


def test_a_click_never_waits_for_a_person(kernel, authority):
    made = kernel.run(f"""import ipywidgets
from smtp_notebook import MicrosoftOAuth, connect
errors = []
def clicked(_):
    try:
        connect("smtp://ann@example.com@mail.example.com", oauth={microsoft(authority)})
    except Exception as error:
        errors.append(type(error).__name__)
button = ipywidgets.Button()
button.on_click(clicked)
print(button.comm.comm_id)""")
    click = {"comm_id": made.text.strip(), "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", click))
    assert kernel.run("print(errors)").text.strip() == "['SecretError']"
    assert authority.requests == []


def test_an_interrupt_ends_the_waiting_and_says_so(kernel, authority):
    found = run(kernel, connecting(google(authority)), once=lambda _: kernel.manager.interrupt_kernel())
    assert found.error == "KeyboardInterrupt"
    assert found.bundles[-1]["text/plain"] == "That was stopped."
    assert run(kernel, connecting(google(authority)), somebody=False).error == "SecretError"
