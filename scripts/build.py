"""Build sdist and wheel, check what the wheel holds, and try it in an empty environment."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRIAL = (
    "from smtp_notebook import Sandbox, send\n"
    "with Sandbox() as box:\n"
    "    print(send(to='ann@example.com', subject='From a wheel', body='**hi**', via=box))\n"
    "    assert len(box.messages) == 1\n"
)


def main() -> None:
    """Build and try; end with an error when something is missing."""
    target = ROOT / "dist"
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)], check=True)
    wheel = max(target.glob("*.whl"), key=lambda p: p.stat().st_mtime)
    names = zipfile.ZipFile(wheel).namelist()
    missing = [n for n in ("smtp_notebook/py.typed", "smtp_notebook/__init__.py") if n not in names]
    strays = [n for n in names if n.startswith(("tests/", "scripts/", "benchmarks/"))]
    if missing or strays:
        sys.exit(f"The wheel lacks {missing} or holds {strays}.")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        python = Path(folder) / "env" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
        subprocess.run([python, "-c", TRIAL], check=True, cwd=folder)
    print(f"{wheel.name}: built, installed and tried.")


if __name__ == "__main__":
    main()
