"""The documentation: it builds without a warning or the network, and what it says is so."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import PurePosixPath

import nbformat
import pytest
import trustme
from conftest import ROOT
from lxml import html as lxml_html
from markdown_it import MarkdownIt
from nbclient import NotebookClient
from scripted import Server, server_context

import smtp_notebook
from smtp_notebook import State, attachments, message
from smtp_notebook.outcome import DEFAULT_STATUS

DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
CODE = ("python", "ipython3")


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page):
    """Return a page's code, each block with whether it can be run; one that cannot says why in a comment."""
    found, marked = [], False
    for token in MarkdownIt().parse(text_of(page)):
        if token.type == "fence" and token.info.strip() in CODE:
            found.append((token.content, not marked))
        marked = token.type == "html_block" and token.content.startswith("<!-- not run: ")
    return found


def cells(page):
    return [code for code, runs in blocks(page) if runs]


def run(codes, folder, **variables):
    """Run cells in a real kernel, in a copy of the notebooks' folder; return them with what they showed."""
    place = folder / "notebooks"
    shutil.copytree(ROOT / "notebooks", place)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in codes])
    made = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(place)}})
    made.execute(env={**os.environ, "SMTP_NOTEBOOK_CONFIG": str(folder / "config"), **variables})
    return book.cells


def shown(cell):
    """Return what a cell printed and showed, as text."""
    pieces = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)
    return "\n".join(pieces)


# -------------------------------------------------------------------------------------- what is built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of the pages, built as `make docs` builds them."""
    target = tmp_path_factory.mktemp("docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-n",
        "-q",
        "-b",
        "html",
        "-d",
        str(target / "trees"),
    ]
    done = subprocess.run([*command, str(DOCS), str(target / "html")], check=False, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / "html"


def documents(built):
    return {str(p.relative_to(built)): lxml_html.parse(str(p)).getroot() for p in built.rglob("*.html")}


def test_no_page_loads_anything_from_elsewhere(built):
    foreign = re.compile(r"^\s*(?:[a-z+.-]+:)?//", re.IGNORECASE)
    for name, root in documents(built).items():
        loads = root.xpath("//*[not(self::a)]/@href | //@src | //@srcset | //@data | //@poster")
        assert not [url for url in loads if foreign.match(url)], name
        assert "url(http" not in "".join(root.xpath("//@style | //style/text()")), name
    for sheet in built.rglob("*.css"):
        css = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", css), sheet.name


def test_every_link_inside_leads_somewhere(built):
    pages = documents(built)
    anchors = {name: set(root.xpath("//@id | //a/@name")) for name, root in pages.items()}
    for name, root in pages.items():
        for url in root.xpath("//a/@href"):
            path, _, anchor = url.partition("#")
            if re.match(r"[a-z]+:", url) or not (path or anchor):
                continue
            target = os.path.normpath(PurePosixPath(name).parent / path) if path else name
            assert (built / target).exists(), (name, url)
            assert not anchor or anchor in anchors[target], (name, url)


def test_every_picture_says_what_it_shows(built):
    for name, root in documents(built).items():
        for image in root.xpath("//main//img"):
            assert image.get("alt"), name
            assert (built / name).parent.joinpath(image.get("src")).exists(), (name, image.get("src"))


def test_the_states_stand_with_their_codes(built):
    root = documents(built)["reference/states.html"]
    rows = {row.xpath("string(td[1]//code)"): row.text_content() for row in root.xpath("//table[1]//tr[td]")}
    for state in State:
        assert str(DEFAULT_STATUS[state]) in rows[str(state)]


def test_a_name_in_a_page_is_a_link_to_its_description(built):
    root = documents(built)["explanation/sandbox.html"]
    assert root.xpath("//main//a[contains(@href, 'servers.html#smtp_notebook.Sandbox')]")


# --------------------------------------------------------------------------------------- what is said


def test_readme_reference_and_package_have_the_same_names():
    described = [
        name
        for page in PAGES
        for name in re.findall(r"\.\. auto(?:function|class|exception):: smtp_notebook\.(\w+)$", text_of(page), re.MULTILINE)
    ]  # fmt: skip
    public = [n for n in smtp_notebook.__all__ if not n.endswith("load_ipython_extension")]
    assert sorted(described) == sorted(public)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [n for n in public if not re.search(rf"`@?{n}\b", readme)]


def test_the_connector_page_has_every_property():
    first = re.findall(r"^\| `(\w+)` \|", text_of("reference/connector.md"), re.MULTILINE)
    assert sorted(first) == sorted((*message._CONNECTOR, *attachments._CONNECTOR))


@pytest.mark.parametrize("page", PAGES)
def test_addresses_are_those_that_nobody_has(page):
    hosts = set(re.findall(r"[\w.+'-](?:@|%40)([\w-]+(?:\.[\w-]+)+)", text_of(page)))
    assert not [h for h in hosts if not re.search(r"(?:^|\.)example\.(?:com|org|test)$", h)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)])
def test_code_that_is_not_run_is_code_all_the_same(page):
    for code, runs in blocks(page):
        if not runs:
            ast.parse(code)


# ---------------------------------------------------------------------------------------- what is run


@pytest.mark.notebook
def test_the_tutorial_works_in_order_up_to_a_real_server(tmp_path):
    """A server with STARTTLS and a login stands in for the person's own."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = server_context(authority, "localhost")
    with Server(starttls=context, login=("you@example.com", "s3cret")) as server:
        codes = [c.replace("mail.example.com", f"localhost:{server.port}") for c in cells("tutorial.md")]
        trust = {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SMTP_NOTEBOOK_PASSWORD": "s3cret"}
        text = "\n".join(map(shown, run(codes, tmp_path, **trust)))
        arrived = [mail.recipients for mail in server.log.mails]
    assert "249 sent, 1 invalid" in text
    assert "149 sent, 100 skipped, 1 invalid" in text
    assert "249 mails;" in text
    # The mail to oneself, three of the merge, and the mailing of one, once.
    assert [list(map(str, to)) for to in arrived] == [["you@example.com"]] * 5
    assert "s3cret" not in text


#: What pages say that their code shows.
PROMISED = {
    "index.md": ("249 sent, 1 invalid",),
    "howto/tables-and-charts.md": ("Merge to the sandbox: 4 sent",),
    "howto/resume.md": ("30 sent, 20 skipped", "its template is another"),
    "howto/later.md": (
        "1 sent, 1 skipped",
        "1 planned",
        "1 row waits until ",
        "1 row has expired",
        "Not before ",
    ),
    "howto/group.md": ("2 sent", "sent with 2 rows, now 3; 1 row was in no mail"),
    "howto/ab-subjects.md": ("40 sent", "Variant A: ", "{<State.SENT"),
    "howto/new-leads.md": (
        "1 sent, 2 skipped",
        "sent to ann@example.com, but the row now says ann.oneil@example.com",
    ),
}
OTHERS = [p for p in PAGES if p != "tutorial.md" and p not in PROMISED and cells(p)]


#: Leaves a page nothing of the one before: no names, no default connection, no journal and no file.
AFRESH = """%reset -f
import os
from smtp_notebook.connection import set_current
os.environ.update({variables!r})
os.chdir({place!r})
set_current(None)
%reset -f"""


@pytest.fixture(scope="module")
def kernel():
    """A kernel for one page after another: to start it takes longer than most of them do."""
    made = NotebookClient(nbformat.v4.new_notebook(), timeout=120)
    with made.setup_kernel(env=dict(os.environ)):
        yield made


def run_afresh(codes, kernel, folder):
    """Run cells in *kernel*, in a copy of the notebooks' folder; return them with what they showed."""
    place = folder / "notebooks"
    shutil.copytree(ROOT / "notebooks", place)
    own = {name: value for name, value in os.environ.items() if name.startswith("SMTP_NOTEBOOK_")}
    variables = own | {"SMTP_NOTEBOOK_CONFIG": str(folder / "config")}
    found = [
        nbformat.v4.new_code_cell(code)
        for code in (AFRESH.format(variables=variables, place=str(place)), *codes)
    ]
    for cell in found:
        kernel.nb.cells.append(cell)
        kernel.execute_cell(cell, len(kernel.nb.cells) - 1)
    return found


@pytest.mark.notebook
@pytest.mark.parametrize("page", PROMISED)
def test_the_code_of_a_page_shows_what_the_page_says(page, kernel, tmp_path):
    text = "\n".join(map(shown, run_afresh(cells(page), kernel, tmp_path)))
    assert not [promised for promised in PROMISED[page] if promised not in text]


@pytest.mark.notebook
def test_the_code_of_the_other_pages_works_in_order(tmp_path):
    """They share a kernel, where each begins without the names of the one before."""
    codes = [c for page in OTHERS for c in ("%reset -f", f"print({page!r})", *cells(page))]
    text = "\n".join(map(shown, run(codes, tmp_path, SMTP_NOTEBOOK_PASSWORD="s3cret")))
    assert "'Importance': 'High'" in text
    assert "s3cret" not in text
