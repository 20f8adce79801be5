"""Install the browser that some tests drive, where that is allowed.

As root, or with a sudo that asks nothing, through apt. Elsewhere it says what is missing; the tests that
need it then say why they are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess

#: A program, by any of its names, and the Debian packages that bring it.
NEEDED = {("chromium", "chromium-browser", "google-chrome"): ("chromium", "fonts-dejavu-core")}


def main() -> None:
    """Install what is missing; never fail."""
    missing = [p for names, packages in NEEDED.items() if not any(map(shutil.which, names)) for p in packages]
    if not missing:
        return
    prefix = _privilege()
    if prefix is None or shutil.which("apt-get") is None:
        print(f"Not installed: {' '.join(missing)} (no root and no sudo without a password, or no apt).")
        return
    print(f"Installing {' '.join(missing)} …", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(
            [*prefix, "apt-get", *command],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            print(f"apt-get {command[0]} failed; the tests that need {' '.join(missing)} are skipped.")
            return


def _privilege() -> list[str] | None:
    """Return what to put before a command to run it as root, or None."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


if __name__ == "__main__":
    main()
