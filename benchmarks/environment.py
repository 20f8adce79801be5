"""Install what make bench compares with, into build/bench: the Python peers and nodemailer.

Runs on the project's own Python, so that every Python peer runs on the same one. Done again when the lists
change.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from measure import BUILD, HERE, MODULES, PYTHON


def main() -> None:
    """Install both; without npm the Python peers alone."""
    BUILD.mkdir(parents=True, exist_ok=True)
    _once(HERE / "requirements.txt", BUILD / ".python", _python)
    if shutil.which("npm") and shutil.which("node"):
        _once(HERE / "package.json", BUILD / ".node", _node)
    else:
        print("Node.js is missing, so nodemailer is left out: sudo apt-get install -y nodejs npm")


def _once(source: Path, stamp: Path, install: object) -> None:
    assert callable(install)
    wanted = source.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    install(source)
    stamp.write_text(wanted, encoding="utf-8")


def _python(source: Path) -> None:
    print(f"Installing the Python peers into {PYTHON.parent.parent.name} …", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(PYTHON.parent.parent)])
    _run([str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(source)])


def _node(source: Path) -> None:
    print("Installing nodemailer …", flush=True)
    MODULES.mkdir(exist_ok=True)
    shutil.copy(source, MODULES / "package.json")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
    _run(["npm", "install", "--prefix", str(MODULES), *quiet])


def _run(command: list[str]) -> None:
    code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
