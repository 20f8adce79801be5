"""The command line as real processes, in a folder of a test's own, and inside this one where that proves as much."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import CliRunner
from conftest import ROOT

from smtp_notebook.cli import main

_HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from smtp_notebook.cli import main
main(prog_name="smtp-notebook")
"""


class Commands:
    """Call it with arguments and environment variables; it returns what the process came to."""

    def __init__(self, folder):
        self.folder = folder
        self._started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=10)

    def _how(self, arguments, variables):
        environment = {
            **os.environ,
            "SMTP_NOTEBOOK_CONFIG": str(self.folder / "config"),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        return [sys.executable, "-m", "smtp_notebook", *map(str, arguments)], {
            "env": environment,
            "cwd": self.folder,
        }

    def __call__(self, *arguments, stdin=None, **variables):
        command, how = self._how(arguments, variables)
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, encoding="utf-8", **given, **how)  # fmt: skip

    def start(self, *arguments, stdout=subprocess.PIPE, **variables):
        """Start a process that Ctrl-C reaches: a shell's background jobs ignore it."""
        command, how = self._how(arguments, variables)
        command[1:3] = "-c", _HEARING
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            **how,
        )  # fmt: skip
        self._started.append(process)
        return process


def invoke(*arguments, stdin=None):
    """Run a command in this process."""
    return CliRunner().invoke(main, [*map(str, arguments)], input=stdin, prog_name="smtp-notebook")
