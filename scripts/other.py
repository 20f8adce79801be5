"""Run what depends on the standard library with another Python: ``other.py [INTERPRETER] [pytest's options …]``.

Email, ssl and asyncio differ from version to version, in their holes too (CVE-2024-6923 is open in 3.11.7 and closed
in 3.13.0). The environment is kept in ``.venv-other``. Where there is no other CPython, or ``none`` is asked for, this
says so and is content.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-other"
LEAST = (3, 11)
#: What leans on email, ssl and asyncio, and needs neither browser nor kernel.
FILES = (
    "interpreter", "addresses", "mime", "replies", "scripted", "transport", "tls_faults", "dialogue", "checkup", "connection",
)  # fmt: skip
_ASK = (
    "import sys, ssl, ensurepip, platform; assert platform.python_implementation() == 'CPython'; "
    "print(*sys.version_info[:3])"
)


def version_of(python: str | Path) -> tuple[int, ...] | None:
    """Return an interpreter's version, or None when it is none that could be used."""
    try:
        done = subprocess.run([python, "-c", _ASK], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()
    return found if found >= LEAST else None


def candidates() -> list[Path]:
    """Return interpreters that may be there, newest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = sorted(pyenv.glob("3.*/bin/python3"), reverse=True)
    return [*map(Path, filter(None, map(shutil.which, ("python3.14", "python3.13", "python3.12")))), *found]


def another() -> tuple[Path, tuple[int, ...]] | None:
    """Return a CPython of another minor version than this one, with its version."""
    for python in candidates():
        version = version_of(python)
        if version is not None and version[:2] != sys.version_info[:2]:
            return python, version
    return None


def environment(python: Path, version: tuple[int, ...]) -> Path | None:
    """Return the Python of its environment, made anew when what it needs changed; None when it cannot be made."""
    stamp, config = FOLDER / ".other", FOLDER / "pyvenv.cfg"
    wanted = ".".join(map(str, version))
    if config.exists() and f"version = {wanted}" not in config.read_text(encoding="utf-8"):
        shutil.rmtree(FOLDER)
    needs = (ROOT / "pyproject.toml", ROOT / "scripts" / "environment.py")
    if not stamp.exists() or any(stamp.stat().st_mtime < path.stat().st_mtime for path in needs):
        made = subprocess.run([python, "scripts/environment.py", FOLDER, "other"], check=False, cwd=ROOT)
        if made.returncode:
            return None
    return FOLDER / "bin" / "python"


def main(arguments: list[str]) -> int:
    """Run the tests and return the exit code."""
    asked = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    options = arguments[1:] if asked else arguments
    if asked == "none":
        print("No second Python, as asked.")
        return 0
    version = version_of(asked) if asked else None
    if asked and version is None:
        print(f"{asked} is no CPython 3.11 or newer with venv.", file=sys.stderr)
        return 2
    found = (Path(asked), version) if asked and version else another()
    if found is None:
        print(
            "No other CPython is here, so the tests ran on this one alone: make test OTHER=python3.13 names one."
        )
        return 0
    python = environment(*found)
    if python is None:
        print(f"The environment of {found[0]} cannot be made; its tests did not run.", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    print(f"The same with Python {'.'.join(map(str, found[1]))}: {', '.join(FILES)}", flush=True)
    tests = [f"tests/test_{name}.py" for name in FILES]
    command = [
        python,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-q",
        "-m",
        "not slow",
        *tests,
        *options,
    ]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
