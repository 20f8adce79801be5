"""A JupyterLab server and a browser on it, as a person would use them; `conftest` gives both as `lab`."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
# Run every cell of the notebook that is open, once its kernel has answered.
_RUN_ALL = """async theme => {
  const app = window.jupyterapp;
  await app.restored;
  await app.commands.execute('apputils:change-theme', {theme});
  for (let tries = 0; tries < 200; tries++) {
    const open = app.shell.currentWidget;
    if (open && open.sessionContext) {
      await open.context.ready;
      await open.sessionContext.ready;
      await open.sessionContext.session.kernel.info;
      break;
    }
    await new Promise(done => setTimeout(done, 100));
  }
  await app.commands.execute('notebook:run-all-cells');
}"""


class Lab:
    """A running JupyterLab: opens notebooks in pages of one browser."""

    def __init__(self, address, folder, browser):
        self.address, self.folder, self.browser = address, folder, browser

    @contextmanager
    def notebook(self, *cells, width=1100, height=900, dark=False):
        """Open a new notebook with *cells*, run them all, and give the page."""
        name = f"{secrets.token_hex(4)}.ipynb"
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, self.folder / name)
        page = self.browser.new_page(viewport={"width": width, "height": height})
        try:
            page.goto(self.address.format(name), wait_until="domcontentloaded")
            page.wait_for_function(
                "() => !!window.jupyterapp && !document.querySelector('#jupyterlab-splash')", timeout=60_000
            )
            page.evaluate(_RUN_ALL, "JupyterLab Dark" if dark else "JupyterLab Light")
            yield page
            self._shut(page)
        finally:
            page.close()

    @staticmethod
    def _shut(page):
        """End the kernel and close the notebook as saved, so that no dialog asks."""
        page.evaluate("""async () => {
          const open = window.jupyterapp.shell.currentWidget;
          await open.sessionContext.shutdown();
          await open.context.save();
        }""")


@contextmanager
def running_lab(chromium, root):
    """Give a Lab whose folders are all below *root*; server and browser end with it."""
    from playwright.sync_api import sync_playwright

    folder = root / "notebooks"
    folder.mkdir(parents=True)
    token, port = secrets.token_hex(16), _free_port()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *("--expose-app-in-browser", f"--ServerApp.root_dir={folder}"),
    ]
    log = root / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=_environment(root), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_up(server, f"http://127.0.0.1:{port}/api/status?token={token}", log)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, headless=True, args=_FLAGS)
            yield Lab(f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}", folder, browser)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def _environment(root):
    """Return the tests' environment with JupyterLab's news and update pop-ups switched off."""
    settings = root / "settings"
    quiet = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}))
    return os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_until_up(server, address, log):
    """Return once the server answers; its own connection attempts pace the loop."""
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(Path(log).read_text())
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(Path(log).read_text())
