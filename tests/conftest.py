"""Every test runs as if nobody lived here: no settings, no keyring, no Jupyter folders of the person's own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from isolated import environment  # noqa: E402 - after the path is set

_FOLDER = tempfile.TemporaryDirectory(prefix="smtp-notebook-tests-")
_VARIABLES = environment(Path(_FOLDER.name))
os.environ.clear()
os.environ.update(_VARIABLES)


def pytest_addoption(parser):
    parser.addoption("--tables", action="store_true", help="write the tables of docs/ that tests make")


#: The files that take longest. `make test` runs whole files on two processes, and a long one that begins last runs alone.
LONG = (
    "test_browser_form.py",
    "test_browser_merge.py",
    "test_browser_inbox.py",
    "test_cluster.py",
    "test_kill.py",
    "test_browser.py",
    "test_docs.py",
    "test_notebooks.py",
    "test_browser_looks.py",
    "test_gallery.py",
    "test_binder.py",
    "test_journal_machine.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Run the longest files first, and then those with the most tests."""
    tests = Counter(item.path for item in items)
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: (place.get(item.path.name, len(LONG)), -tests[item.path], item.path))


@pytest.fixture(autouse=True)
def _fresh_state(monkeypatch, tmp_path):
    """Take away what a test named, give it a journal of its own, and let no retry wait."""
    from smtp_notebook import api, connection, merge

    async def at_once(_seconds):
        return None

    monkeypatch.setattr(merge, "PAUSE", at_once)
    monkeypatch.setenv("SMTP_NOTEBOOK_JOURNAL", str(tmp_path / "state" / "journal.sqlite3"))
    monkeypatch.setenv("SMTP_NOTEBOOK_SUPPRESSIONS", str(tmp_path / "state" / "suppressions.sqlite3"))
    yield
    connection.set_current(None)
    assert api is not None


@pytest.fixture
def smtp_notebook(tmp_path):
    """Run the command in a process of its own; see `commands.Commands`."""
    from commands import Commands

    with Commands(tmp_path) as found:
        yield found


@pytest.fixture
def interruptible():
    """Have SIGINT raise KeyboardInterrupt: a shell's background jobs ignore it from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sandbox():
    """A sandbox of this test's own."""
    from smtp_notebook import Sandbox

    with Sandbox() as box:
        yield box


@pytest.fixture
def drawer():
    """A keyring that keeps what it gets in memory."""
    import keyring
    from drawer import Drawer

    before = keyring.get_keyring()
    found = Drawer()
    keyring.set_keyring(found)
    yield found
    keyring.set_keyring(before)


def missing(what):
    """Skip with the reason; in CI, where everything can be installed, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium or Chrome."""
    from system_packages import find_chromium

    found = find_chromium()
    if found is None:
        missing("no Chromium here: apt install chromium")
    return found


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of the tests' own; see `databases.Postgres`, and `fresh` for a database of one test's own."""
    from databases import running_postgres

    with running_postgres() as found:
        yield found


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """A Jupyter server that shows JupyterLab, Notebook 7 and Voilà; see `lab.Server`."""
    from lab import running_server

    root = tmp_path_factory.mktemp("jupyter")
    folder = root / "notebooks"
    folder.mkdir()
    with running_server(root, folder) as found:
        yield found


@pytest.fixture(scope="module")  # Playwright keeps an event loop running on this thread while it lasts
def browser(chromium):
    """A headless Chromium that reaches nothing beyond this machine."""
    from lab import running_browser

    with running_browser(chromium) as found:
        yield found


@pytest.fixture(scope="module")
def lab(jupyter, browser):
    """JupyterLab; see `lab.Lab`."""
    from lab import Lab

    return Lab(jupyter, browser)


@pytest.fixture(scope="module")
def notebook7(jupyter, browser):
    """Notebook 7; see `lab.Notebook7`."""
    from lab import Notebook7

    return Notebook7(jupyter, browser)


@pytest.fixture(scope="module")
def voila(jupyter, browser):
    """Voilà; see `lab.Voila`."""
    from lab import Voila

    return Voila(jupyter, browser)


@pytest.fixture(scope="module", params=["lab", "notebook7", "voila"])
def frontend(request):
    """Each of the three in turn."""
    return request.getfixturevalue(request.param)
