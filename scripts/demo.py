"""Run the mail-merge notebook without a browser, and show what it showed.

Real SMTP, on loopback, to the sandbox. Nothing of the person's own is read or written: settings, keyring and
Jupyter folders lie in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from isolated import environment

ROOT = Path(__file__).resolve().parent.parent
NAME = "02-mail-merge.ipynb"
TARGET = ROOT / "build" / "demo"


def main() -> None:
    """Run, print, and say where to look next."""
    with tempfile.TemporaryDirectory(prefix="smtp-notebook-demo-") as folder:
        os.environ.clear()
        os.environ.update(_environment(Path(folder)))
        shutil.copytree(ROOT / "notebooks", Path(folder) / "notebooks")
        notebook = _run(Path(folder) / "notebooks")
    TARGET.mkdir(parents=True, exist_ok=True)
    import nbformat

    nbformat.write(notebook, TARGET / NAME)
    for cell in notebook.cells:
        if "demo" in cell.get("metadata", {}).get("tags", []):
            _print(cell)
    place = (TARGET / NAME).relative_to(ROOT)
    print(f"\nNothing left this machine. The notebook as it ran: {place}")
    print("Look next: make lab opens it in JupyterLab, with 01 (results) and 03 (a form) beside it.")


_OLD_PATH = os.environ.get("PATH", "")


def _environment(folder: Path) -> dict[str, str]:
    return environment(folder) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{_OLD_PATH}"}


def _run(notebooks: Path) -> Any:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    print(f"Running notebooks/{NAME} …", flush=True)
    notebook = nbformat.read(notebooks / NAME, as_version=4)
    try:
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(notebooks)}}).execute()
    except CellExecutionError as error:
        sys.exit(f"The notebook failed:\n{error}")
    return notebook


def _print(cell: Any) -> None:
    for output in cell.get("outputs", []):
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        print(f"\n{text.rstrip()}")


if __name__ == "__main__":
    main()
