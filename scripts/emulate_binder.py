"""Build what Binder would build from binder/, without Docker, and run the first notebook there.

Follows repo2docker's Python build pack: the whole repository is copied, runtime.txt names the Python, a fixed
set of Jupyter packages is there, requirements.txt is installed from the repository's root, postBuild runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from isolated import environment

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


def wanted_python() -> str:
    """Return the Python that runtime.txt names, such as ``3.11``."""
    return (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")


def find_python() -> str | None:
    """Return an interpreter of that version, or None."""
    version = wanted_python()
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    return shutil.which(f"python{version}")


def main() -> None:
    """Build and run; end with an error when a step fails."""
    python = find_python()
    if python is None:
        sys.exit(f"Python {wanted_python()}, which binder/runtime.txt names, is not here.")
    with tempfile.TemporaryDirectory(prefix="binder-") as folder:
        home = Path(folder) / "home" / "repo"
        _copy(home)
        variables = environment(Path(folder))
        environment_folder = Path(folder) / "env"
        subprocess.run([python, "-m", "venv", environment_folder], check=True)
        variables |= {
            "PATH": f"{environment_folder / 'bin'}{os.pathsep}{variables['PATH']}",
            "REPO_DIR": str(home),
        }
        inside = str(environment_folder / "bin" / "python")
        for command in (
            [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *BASE],
            [
                inside,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                "binder/requirements.txt",
            ],
            ["./binder/postBuild"],
            [inside, "-c", RUN, NOTEBOOK],
        ):
            subprocess.run(command, check=True, cwd=home, env=variables, stdin=subprocess.DEVNULL)


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
