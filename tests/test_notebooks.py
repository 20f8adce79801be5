"""The notebooks run top to bottom in a real kernel, and then once more in the same one."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))


# Its charts take long; once it runs for test_gallery, and the others say what a second run may find.
GALLERY = "04-rich-results.ipynb"


@pytest.mark.notebook
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == GALLERY else n for n in NOTEBOOKS]
)
def test_a_notebook_runs_twice_in_one_kernel(name, tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    book = nbformat.read(folder / name, as_version=4)
    cells = list(book.cells)
    book.cells = [*cells, *(nbformat.from_dict({**c, "id": f"{c['id']}-again"}) for c in cells)]
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    text = str(book)
    if name.startswith("02"):
        assert text.count("249 sent, 1 invalid") >= 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs(name):
    book = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    assert not [c for c in book.cells if c.get("outputs") or c.get("execution_count")]
