"""Install what apt has to bring, where that is allowed: ``system_packages.py [browser | bench]``.

The browser that some tests drive, or the servers that the benchmark sends to. As root, or with a sudo that
asks nothing, through apt. Elsewhere it says what is missing; the tests that need it then say why they are
skipped, and the benchmark ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: For each purpose a program, by any of its names, and the Debian packages that bring it.
NEEDED = {
    "browser": {("chromium", "chromium-browser", "google-chrome"): ("chromium", "fonts-dejavu-core")},
    "bench": {("smtp-sink",): ("postfix",), ("node",): ("nodejs",), ("npm",): ("npm",)},
}
#: Postfix's programs are wanted, not a mail server that runs.
ANSWERS = "postfix postfix/main_mailer_type select No configuration\n"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where a user's PATH does not look


def main(purpose: str = "browser") -> None:
    """Install what is missing; never fail."""
    missing = [
        p for names, packages in NEEDED[purpose].items() if not any(map(_found, names)) for p in packages
    ]
    if not missing:
        return
    prefix = _privilege()
    if prefix is None or shutil.which("apt-get") is None:
        print(f"Not installed: {' '.join(missing)} (no root and no sudo without a password, or no apt).")
        return
    print(f"Installing {' '.join(missing)} …", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    if "postfix" in missing:
        subprocess.run([*prefix, "debconf-set-selections"], check=False, input=ANSWERS, text=True)
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(
            [*prefix, "apt-get", *command],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            print(f"apt-get {command[0]} failed; what needs {' '.join(missing)} is skipped.")
            return


def _found(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


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
    main(*sys.argv[1:])
