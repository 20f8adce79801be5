"""Build what Binder would build from binder/, without Docker, and try it: ``python scripts/emulate_binder.py``.

Follows repo2docker's Python build pack: the whole repository is copied, runtime.txt names the Python, a fixed
set of Jupyter packages is there, requirements.txt is installed from the repository's root, postBuild runs. Then
the first notebook runs there without a browser, and the one behind README's badge in JupyterLab and a Chromium.
The browser is driven from this environment: Playwright is not in Binder's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from isolated import environment
from system_packages import find_chromium

ROOT = Path(__file__).resolve().parent.parent
BASE = ("jupyterlab==4.*", "notebook==7.*", "jupyter_server==2.*", "ipywidgets==8.*")
NOTEBOOK = "notebooks/01-send-results.ipynb"
RUN = """
import nbformat, sys
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=120, resources={"metadata": {"path": "notebooks"}}).execute()
outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
assert any("sent 250" in str(o) for o in outputs), outputs
print(f"{sys.argv[1]}: {len(book.cells)} cells ran")
"""
#: A mail in a cell's output: the sandbox's inbox, a preview or a form shows it so.
MAIL = '.jp-OutputArea-output iframe[sandbox=""][srcdoc]'
_BADGE = re.compile(r"\(https://mybinder\.org/v2/[^\s)?]+(?:\?([^\s)]*))?\)")
# Nothing is compiled that nothing imports: that was a third of the time.
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")


@dataclass(frozen=True, slots=True)
class Built:
    """What Binder built: the repository's copy, and the environment's interpreter and variables."""

    home: Path
    python: str
    variables: Mapping[str, str]

    def call(self, *command: str) -> None:
        """Run *command* in the repository's copy; raises CalledProcessError when it fails."""
        subprocess.run(command, check=True, cwd=self.home, env=self.variables, stdin=subprocess.DEVNULL)


def wanted_python() -> str:
    """Return the Python that runtime.txt names, such as ``3.11``."""
    return (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")


def find_python() -> str | None:
    """Return an interpreter of that version, or None."""
    version = wanted_python()
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    return shutil.which(f"python{version}")


def behind_badge(readme: str) -> str:
    """Return the notebook that the Binder badge of *readme* opens, as a path below the repository.

    Args:
        readme: Markdown with one link to mybinder.org, whose query has ``urlpath=lab/tree/PATH`` or ``labpath=PATH``
            (repo2docker's and Binder's documentation, "User interface").

    Raises:
        ValueError: There is no badge, there are several, or it does not open a notebook in JupyterLab.
    """
    queries = _BADGE.findall(readme)
    if len(queries) != 1:
        raise ValueError(
            f"README has {len(queries)} links to mybinder.org. Have it link there once, with a badge."
        )
    asked = parse_qs(queries[0])
    path = unquote(asked.get("labpath", asked.get("urlpath", [""]))[0])
    if "urlpath" in asked:
        path = path.removeprefix("lab/tree/") if path.startswith("lab/tree/") else ""
    if not path.endswith(".ipynb"):
        raise ValueError(
            f"README's badge asks Binder for {queries[0]!r}, which is no notebook in JupyterLab. "
            "Write urlpath=lab/tree/… or labpath=…, with the path of a notebook."
        )
    return path


@contextmanager
def built(python: str) -> Iterator[Built]:
    """Build in a temporary folder, give what was built, and remove it."""
    with _empty(python) as made:
        made.call(made.python, *_PIP, *BASE)
        made.call(made.python, *_PIP, "-r", "binder/requirements.txt")
        made.call("./binder/postBuild")
        yield made


@contextmanager
def linked() -> Iterator[Built]:
    """Give what `built` gives, but with links to this environment's packages: seconds in place of a minute.

    Those that the requirements ask for are there, and what they need, and no other: what is missing in the requirements is
    missing here. Which versions pip would choose, and whether they can be installed, it does not say.
    """
    with _empty(sys.executable, "--without-pip") as made:
        asked = (made.home / "binder" / "requirements.txt").read_text(encoding="utf-8")
        site = Path(sysconfig.get_path("purelib", vars={"base": str(Path(made.python).parents[1])}))
        for package in _needed([*BASE, *asked.replace("-e .", "smtp_notebook").splitlines()]):
            _link(package, site)
        # As -e has it.
        (site / "smtp_notebook.pth").write_text(f"{made.home}\n", encoding="utf-8")
        made.call("./binder/postBuild")
        yield made


def run(made: Built) -> None:
    """Run the first notebook without a browser."""
    made.call(made.python, "-c", RUN, NOTEBOOK)


def browse(made: Built, chromium: str) -> list[str]:
    """Open the notebook behind README's badge in JupyterLab, run it, and return the mails that it shows.

    Returns:
        The text of each mail that can be seen in an output; at least one has come.

    Raises:
        ValueError: README's badge opens no notebook that is there.
        AssertionError: No mail came up within 30 s.
    """
    if (tests := str(ROOT / "tests")) not in sys.path:
        sys.path.append(tests)
    from lab import Lab, running_browser, running_server
    from playwright.sync_api import expect

    path = behind_badge((made.home / "README.md").read_text(encoding="utf-8"))
    if not (made.home / path).is_file():
        raise ValueError(f"README's badge opens {path}, which is not there. Correct its path.")
    with (
        tempfile.TemporaryDirectory(prefix="binder-lab-") as place,
        running_server(Path(place), made.home, python=made.python, variables=dict(made.variables)) as server,
        running_browser(chromium) as browser,
        Lab(server, browser).opened(path) as page,
    ):
        mails = page.locator(MAIL)
        expect(mails.first).to_be_attached(timeout=30_000)
        return [_text(mails.nth(i)) for i in range(mails.count())]


def _text(mail: Any) -> str:
    """Return what stands in a mail's frame, a Playwright locator, once there is something."""
    from playwright.sync_api import expect

    mail.scroll_into_view_if_needed()
    body = mail.content_frame.locator("body")
    expect(body).to_contain_text(re.compile(r"\w"), timeout=30_000)
    return str(body.inner_text())


def main() -> None:
    """Build and try; end with an error when a step fails."""
    python, chromium = find_python(), find_chromium()
    if python is None:
        sys.exit(f"Python {wanted_python()}, which binder/runtime.txt names, is not here.")
    with built(python) as made:
        run(made)
        if chromium is None:
            print("No Chromium here, so the badge's notebook was not opened: apt install chromium")
            return
        mails = browse(made, chromium)
    print(f"README's badge: {len(mails)} mails shown, the first begins {mails[0][:60]!r}")


@contextmanager
def _empty(python: str, *options: str) -> Iterator[Built]:
    """Give a copy of the repository and an empty environment in a temporary folder, and remove it."""
    with tempfile.TemporaryDirectory(prefix="binder-") as place:
        folder = Path(place)
        home = folder / "home" / "repo"
        _copy(home)
        subprocess.run([python, "-m", "venv", *options, folder / "env"], check=True)
        programs = folder / "env" / "bin"
        variables = environment(folder)
        variables |= {"PATH": f"{programs}{os.pathsep}{variables['PATH']}", "REPO_DIR": str(home)}
        # Only what was installed there counts.
        variables.pop("PYTHONPATH", None)
        yield Built(home, str(programs / "python"), variables)


def _needed(requirements: Iterable[str]) -> list[metadata.Distribution]:
    """Return the installed packages that *requirements* name, and all that those need."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found, open_ = dict[str, metadata.Distribution](), [Requirement(line) for line in requirements]
    known = set[tuple[str, str]]()
    while open_:
        wanted = open_.pop()
        name = canonicalize_name(wanted.name)
        news = {(name, extra) for extra in ("", *wanted.extras)} - known
        if not news:
            continue
        known |= news
        found[name] = metadata.distribution(wanted.name)
        needs = [Requirement(line) for line in found[name].requires or ()]
        open_ += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for _, extra in news)
        ]
    return list(found.values())


def _link(package: metadata.Distribution, site: Path) -> None:
    """Have *site* show what *package* installed at its top level; not where an editable one is found."""
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (top.startswith("__editable__") or (link := site / top).exists()):
            link.symlink_to(Path(str(package.locate_file(top))).resolve())


def _copy(target: Path) -> None:
    """Copy what git knows of, or would, into *target*."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


if __name__ == "__main__":
    main()
