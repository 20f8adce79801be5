"""What the tests of the forms stand on, in JupyterLab, Notebook 7 and Voilà: real browsers and kernels."""

from __future__ import annotations

import pytest
from look import axe, no_text_lost, picture

pytestmark = pytest.mark.browser

RUNS = """try:
    runs += 1
except NameError:
    runs = 1
print("runs so far:", runs)"""
TYPED = """import ipywidgets
ipywidgets.Text(description="Word", continuous_update=True)"""
# What axe-core must find, and what it must not look at: the mail is the sender's, the page Jupyter's.
FAULTS = """from IPython.display import HTML
HTML('<p style="color:#ccc;background:#fff">hardly there</p><button></button>'
     '<iframe sandbox="" title="mail" srcdoc="<button></button>"></iframe>')"""
HAS_GROUND = "c => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0') === c"
PICTURE = """from IPython.display import HTML
HTML('<img src="https://example.com/asked.png" alt="elsewhere">')"""


#: What is true of JupyterLab is tried in the others by make test-all; the forms' own tests use all three.
ELSEWHERE = [pytest.param(name, marks=pytest.mark.slow) for name in ("notebook7", "voila")]


@pytest.fixture(params=["lab", *ELSEWHERE])
def frontend(request):
    """Each of the three in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["lab", ELSEWHERE[0]])
def jupyterlab(request):
    """Those in which cells can be run again."""
    return request.getfixturevalue(request.param)


def is_shown(locator):
    from playwright.sync_api import expect

    expect(locator).to_be_visible(timeout=15_000)


# ----------------------------------------------------------------- what the tests of forms stand on


def test_nothing_beyond_this_machine_is_reached_and_what_is_asked_for_is_known(frontend):
    with frontend.notebook(PICTURE) as page:
        page.wait_for_function("() => document.querySelector('img[alt=elsewhere]')?.complete")
        assert page.evaluate("() => document.querySelector('img[alt=elsewhere]').naturalWidth") == 0
        assert set(frontend.strange) == {
            "https://example.com/asked.png"
        }  # JupyterLab may show an output twice
        assert len(set(frontend.asked)) == 1 + 3 * (frontend.name == "voila")


def test_a_kernel_ends_with_its_page_however_that_ends(frontend, jupyter):
    with pytest.raises(ZeroDivisionError), frontend.notebook("1") as page:
        assert len(jupyter.kernels()) == 1, page.url
        raise ZeroDivisionError
    assert jupyter.kernels() == set()


def test_a_restarted_kernel_has_forgotten_what_ran(jupyterlab):
    with jupyterlab.notebook(RUNS) as page:
        is_shown(page.get_by_text("runs so far: 1"))
        jupyterlab.run_all(page)
        is_shown(page.get_by_text("runs so far: 2"))
        jupyterlab.restart(page)
        jupyterlab.run_all(page)
        is_shown(page.get_by_text("runs so far: 1"))


def test_what_is_typed_is_in_the_saved_notebook_so_that_a_secret_would_be_found(jupyterlab):
    with jupyterlab.notebook(TYPED) as page:
        page.get_by_role("textbox", name="Word").fill("canary-7f3a")
        found = jupyterlab.saved(page)
        assert "canary-7f3a" in found
        assert "application/vnd.jupyter.widget-state+json" in found


def test_axe_finds_what_is_wrong_in_an_output_and_looks_at_nothing_else(frontend):
    size = "() => [document.body.style.minHeight, document.documentElement.scrollHeight]"
    with frontend.notebook(FAULTS) as page:
        is_shown(page.get_by_text("hardly there", exact=True))
        before = page.evaluate(size)
        found = axe(page)
        assert page.evaluate(size) == before
        assert sorted(line.split(":")[0] for line in found) == ["button-name", "color-contrast"]
        assert "contrast of 1.6" in " ".join(found)


LOST = {
    "a button that is too small": (
        '<button style="width:40px;overflow:hidden;white-space:nowrap">Send to everybody</button>',
        "'Send to everybody' in button is cut by button",
    ),
    "an ellipsis": (
        '<div style="width:60px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">a long sentence</div>',
        "'a long sentence' in div is cut by div",
    ),
    "what is cut further up": (
        '<div class="card" style="width:60px;overflow-x:clip"><p><b style="white-space:nowrap">a long sentence</b></p></div>',
        "'a long sentence' in b is cut by div.card",
    ),
    "a line below the edge": (
        '<div style="height:20px;line-height:20px;width:90px;overflow:hidden">first line and a second one</div>',
        "'first line and a second one' in div is cut by div",
    ),
    "what reaches outside the output": (
        '<p style="white-space:nowrap;width:20px">' + "word " * 60 + "</p>",
        "reaches outside div.jp-OutputArea-output",
    ),
    "what stands left of the output": (
        '<p style="margin-left:-200px">out of sight</p>',
        "'out of sight' in p reaches outside div.jp-OutputArea-output",
    ),
    "a hint that its field cuts": (
        '<input style="width:60px" placeholder="ann@example.com; bob@example.com">',
        "'ann@example.com; bob@example.com' in input is wider than its field",
    ),
    "a choice that its menu cuts": (
        '<select style="width:60px"><option>the sandbox of this notebook</select>',
        "'the sandbox of this notebook' in select is wider than its field",
    ),
}
WHOLE = {
    "text that wraps": "<p>" + "word " * 200 + "</p>",
    "what scrolls": '<div style="width:60px;overflow-x:auto;white-space:nowrap">a long sentence</div>',
    "what scrolls inside something that cuts": (
        '<div style="overflow:hidden;width:90px"><div style="overflow:auto;white-space:nowrap">a long sentence</div></div>'
    ),
    "a line that is as tall as its box": (
        '<div style="font-size:16px;line-height:16px;height:16px;overflow:hidden">Ågj</div>'
    ),
    "text for screen readers": (
        '<span style="position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)">for ears alone</span>'
    ),
    "what is hidden": '<p hidden style="width:9px;overflow:hidden">hidden</p>',
    "what is folded": "<details><summary>more</summary><p style='margin-left:-999px'>folded</p></details>",
    "what was typed": '<input style="width:60px" value="ann@example.com; bob@example.com">',
    "what stands out of a box that does not hold it": (
        '<div style="position:relative"><div style="width:9px;height:9px;overflow:hidden">'
        '<div style="position:absolute;white-space:nowrap">a menu of its own</div></div></div><p>below</p>'
    ),
}


def output(browser, content):
    """Return a page with *content* in something like a cell's output, 500 pixels wide."""
    page = browser.new_page(viewport={"width": 600, "height": 400})
    page.set_content(
        f'<div style="margin:0 50px"><div class="jp-OutputArea-output" style="overflow:auto">{content}</div></div>'
    )
    return page


@pytest.mark.parametrize("case", LOST)
def test_text_that_is_cut_off_is_told(browser, case):
    content, said = LOST[case]
    page = output(browser, content)
    found = no_text_lost(page)
    page.close()
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize("case", WHOLE)
def test_text_that_can_be_read_is_not(browser, case):
    page = output(browser, WHOLE[case])
    found = no_text_lost(page)
    page.close()
    assert found == []


def test_a_picture_is_named_after_width_and_theme_and_shows_what_was_asked_for(
    browser, tmp_path, monkeypatch
):
    import look
    from PIL import Image

    monkeypatch.setattr(look, "PICTURES", tmp_path)
    page = browser.new_page(viewport={"width": 640, "height": 300}, color_scheme="dark")
    page.set_content('<p style="width:100px;height:50px;margin:0">hello</p>')
    whole, part = picture(page, "a-page"), picture(page.locator("p"), "a-part")
    page.close()
    assert (whole.name, part.name) == ("a-page-640-dark.png", "a-part-640-dark.png")
    with Image.open(whole) as first, Image.open(part) as second:
        assert (first.size, second.size) == ((640, 300), (100, 50))
