"""What Binder would build from binder/ is built, runs the first notebook, and shows the badge's one in a browser.

The build takes a minute, so it is part of `make test-all`. Here the notebook runs with no package but those that the build
would have brought.
"""

from __future__ import annotations

import subprocess

import emulate_binder
import pytest
from conftest import ROOT, missing


@pytest.fixture(scope="module")
def binder():
    """What Binder would build, built once from nothing."""
    if not (ROOT / ".git").exists():
        missing("not a git checkout, so it is not known which files belong to the project")
    python = emulate_binder.find_python()
    if python is None:
        missing(f"no Python {emulate_binder.wanted_python()} here, which binder/runtime.txt names")
    with emulate_binder.built(python) as made:
        yield made


# The build counts as the time of the test that is first to ask for it.
BUILDS = pytest.mark.timeout(600)


@pytest.mark.notebook
def test_the_first_notebook_needs_nothing_that_binder_would_not_bring(capfd):
    if not (ROOT / ".git").exists():
        missing("not a git checkout, so it is not known which files belong to the project")
    with emulate_binder.linked() as made:
        emulate_binder.run(made)
        assert "01-send-results.ipynb" in capfd.readouterr().out
        made.call(made.python, "-c", "import smtp_notebook; print(smtp_notebook.__file__)")
        assert capfd.readouterr().out.startswith(str(made.home))
        # An environment that had every package would say the same of any requirements.
        with pytest.raises(subprocess.CalledProcessError):
            made.call(made.python, "-c", "import hypothesis")
        assert "No module named 'hypothesis'" in capfd.readouterr().err


@BUILDS
@pytest.mark.slow
@pytest.mark.notebook
def test_binder_builds_and_runs_the_first_notebook(binder, capfd):
    emulate_binder.run(binder)
    assert "01-send-results.ipynb" in capfd.readouterr().out


@BUILDS
@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.notebook
def test_the_notebook_behind_the_badge_shows_a_mail_in_jupyterlab(binder, chromium):
    mails = emulate_binder.browse(binder, chromium)
    assert [text for text in mails if "Dear" in text], mails


LAB = "https://mybinder.org/v2/gh/org/repo/HEAD?"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("urlpath=lab/tree/notebooks/01-a.ipynb", "notebooks/01-a.ipynb"),
        ("urlpath=lab%2Ftree%2Fnotebooks%2F01-a.ipynb", "notebooks/01-a.ipynb"),
        ("urlpath=lab/tree/a%2520b.ipynb", "a b.ipynb"),
        ("labpath=notebooks%2F01-a.ipynb", "notebooks/01-a.ipynb"),
    ],
)
def test_the_badge_names_a_notebook(query, path):
    assert emulate_binder.behind_badge(f"# Title\n\n[![Binder](badge.svg)]({LAB}{query})\n") == path


@pytest.mark.parametrize(
    ("readme", "said"),
    [
        ("# Title", "0 links"),
        (f"[a]({LAB}labpath=a.ipynb) [b]({LAB}labpath=b.ipynb)", "2 links"),
        (f"[a]({LAB}urlpath=voila/render/a.ipynb)", "voila/render/a.ipynb"),
        (f"[a]({LAB}urlpath=lab/tree/notebooks)", "no notebook in JupyterLab"),
        ("[a](https://mybinder.org/v2/gh/org/repo/HEAD)", "no notebook in JupyterLab"),
    ],
)
def test_a_badge_that_opens_no_notebook_in_jupyterlab_is_refused(readme, said):
    with pytest.raises(ValueError, match=said):
        emulate_binder.behind_badge(readme)


def test_readmes_badge_opens_a_notebook_that_is_there():
    assert (ROOT / emulate_binder.behind_badge((ROOT / "README.md").read_text(encoding="utf-8"))).is_file()
