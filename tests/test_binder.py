"""What Binder would build from binder/ is built, and runs the first notebook."""

from __future__ import annotations

import subprocess
import sys

import emulate_binder
import pytest
from conftest import ROOT, missing


@pytest.mark.notebook
def test_binder_builds_and_runs_the_first_notebook():
    if not (ROOT / ".git").exists():
        missing("not a git checkout, so it is not known which files belong to the project")
    if emulate_binder.find_python() is None:
        missing(f"no Python {emulate_binder.wanted_python()} here, which binder/runtime.txt names")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "emulate_binder.py")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "01-send-results.ipynb" in done.stdout
