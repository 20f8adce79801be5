"""Install what some tests speak to in JavaScript, tests/package.json, into build/node.

Done again when the list changes. Without node and npm it says so; the tests that need it are then skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Where the packages lie: below ``node_modules``.
FOLDER = ROOT / "build" / "node"


def main() -> None:
    """Install them; never fail."""
    wanted = (ROOT / "tests" / "package.json").read_text(encoding="utf-8")
    stamp = FOLDER / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    if not (shutil.which("npm") and shutil.which("node")):
        print("Node.js is missing, so smtp-server is left out: sudo apt-get install -y nodejs npm")
        return
    print("Installing smtp-server …", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(wanted, encoding="utf-8")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
    command = ["npm", "install", "--prefix", str(FOLDER), *quiet]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
        print("npm install failed; what needs smtp-server is skipped.")
        return
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
