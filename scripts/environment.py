"""Make the virtual environment and install the project into it: ``environment.py FOLDER EXTRA``.

Runs on a bare Python 3.11 or newer. The stamp ``FOLDER/.EXTRA`` tells make when it was done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LEAST = (3, 11)


def main(folder: Path, extra: str) -> None:
    """Make *folder* an environment with the project and *extra*."""
    if sys.version_info < LEAST:
        sys.exit(
            f"Python {LEAST[0]}.{LEAST[1]} or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 …"
        )
    python = folder / "bin" / "python"
    if not python.exists():
        make(folder)
    print(f"Installing smtp_notebook[{extra}] into {folder} …", flush=True)
    run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            # What is imported is compiled then; most of it never is.
            "--no-compile",
            "--editable",
            f".[{extra}]",
        ]
    )
    (folder / f".{extra}").touch()


def make(folder: Path) -> None:
    """Make an empty environment; install what Debian leaves out of Python where that is allowed."""
    print(f"Making {folder} with Python {sys.version.split()[0]} …", flush=True)
    command = [sys.executable, "-m", "venv", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode == 0:
        return
    shutil.rmtree(folder, ignore_errors=True)
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for step in (["update", "-qq"], ["install", "-y", "-qq", package]):
            subprocess.run(
                ["apt-get", *step], check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        if subprocess.run(command, check=False).returncode == 0:
            return
    sys.exit(
        f"This Python cannot make a virtual environment. On Debian and Ubuntu: sudo apt install {package}"
    )


def run(command: list[str | Path]) -> None:
    """Run a command; end with its code when it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
