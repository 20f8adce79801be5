"""A Jupyter server and a browser on it, as a person would use them: JupyterLab, Notebook 7 and Voilà.

`conftest` gives the three as `lab`, `notebook7` and `voila`. One server shows them all, as it does on Binder;
nothing that is not on this machine can be reached from a page, and who asked for what is written down.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # What a page's route does not see, such as a worker's request, finds no name either.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
_ELSEWHERE = re.compile(r"^(?:https?|wss?)://(?!127\.0\.0\.1[:/])", re.IGNORECASE)
# A Copy button writes without being asked; a test that looks at what it wrote has to read.
_PERMISSIONS = ["clipboard-read", "clipboard-write"]
_THEMES = {False: "JupyterLab Light", True: "JupyterLab Dark"}
# JupyterLab shows another notebook; the one before is closed without a question.
_OPEN_ANOTHER = """async path => {
  const shell = window.jupyterapp.shell;
  const opened = await window.jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  shell.activateById(opened.id);
}"""
_CLOSE = """() => {
  localStorage.clear();
  for (const widget of [...window.jupyterapp.shell.widgets('main')]) {
    if (widget.context) widget.context.model.dirty = false;
    widget.dispose();
  }
}"""
# The notebook that is open, once its kernel has answered, in the theme asked for; gives the kernel's id.
_OPEN = """async theme => {
  const app = window.jupyterapp;
  await app.restored;
  await app.commands.execute('apputils:change-theme', {theme});
  const open = app.shell.currentWidget;
  await open.context.ready;
  await open.sessionContext.ready;
  await open.sessionContext.session.kernel.info;
  return open.sessionContext.session.kernel.id;
}"""
_THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
_HAS_THEME = "light => document.body.dataset.jpThemeLight === light"
_IS_OPEN = """() => !document.querySelector('#jupyterlab-splash')
  && !!window.jupyterapp?.shell?.currentWidget?.sessionContext"""
_RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
# What the menu does behind its question; afterwards the kernel knows nothing of what ran.
_RESTART = """async () => {
  const session = window.jupyterapp.shell.currentWidget.sessionContext;
  await session.restartKernel();
  await session.session.kernel.requestKernelInfo();
}"""
_SAVE = """async () => {
  const context = window.jupyterapp.shell.currentWidget.context;
  await context.save();
  return context.path;
}"""
# Shown once every cell has run and the theme is there; widgets come when their manager has met the kernel.
_VOILA_IS_SHOWN = """() => {
  const cells = document.querySelector('#rendered_cells');
  return !!cells && getComputedStyle(cells).display !== 'none';
}"""
_VOILA_KERNEL = "() => JSON.parse(document.querySelector('#jupyter-config-data').textContent).kernelId"


class Server:
    """A running Jupyter server: its address, its token, and the folder whose notebooks it shows."""

    def __init__(self, port, token, folder):
        self.port, self.token, self.folder = port, token, folder

    def address(self, path, **query):
        """Return the URL of *path*; it lets in whoever has it."""
        asked = "&".join(f"{key}={quote(value)}" for key, value in ({**query, "token": self.token}).items())
        return f"http://127.0.0.1:{self.port}/{path}?{asked}"

    def kernels(self):
        """Return the ids of the kernels that run."""
        with urllib.request.urlopen(self.address("api/kernels"), timeout=30) as answer:
            return {kernel["id"] for kernel in json.load(answer)}

    def end(self, kernel):
        """End a kernel; one that is gone already is none to end."""
        request = urllib.request.Request(self.address(f"api/kernels/{kernel}"), method="DELETE")
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


class FrontEnd:
    """Opens notebooks of a server in pages of one browser.

    ``asked`` has the addresses beyond this machine that the page opened last asked for; none was reached. Those
    that begin as one of ``own`` the front end asks for whatever it shows; ``strange`` has the others.
    """

    name = ""
    own: tuple[str, ...] = ()

    def __init__(self, server, browser):
        self.server, self.browser, self.asked = server, browser, []

    @property
    def strange(self):
        return [address for address in self.asked if not address.startswith(self.own)]

    @contextmanager
    def notebook(self, *cells, width=1100, height=900, dark=False):
        """Open a new notebook with *cells*, run them all, and give the page.

        Args:
            cells: The sources of its code cells.
            width: The window's, in CSS pixels.
            height: The window's too. A picture shows what fits in it.
            dark: Whether the theme is the dark one, and the system asks for dark too.
        """
        import nbformat

        path = f"{secrets.token_hex(4)}.ipynb"
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        file = self.server.folder / path
        nbformat.write(made, file)
        try:
            with self.opened(path, width=width, height=height, dark=dark) as page:
                yield page
        finally:
            # JupyterLab lists the files, and a picture shows the list.
            file.unlink()

    @contextmanager
    def opened(self, path, *, width=1100, height=900, dark=False):
        """Open the notebook at *path* below the server's folder, run it, and give the page.

        The kernel ends with the page, and what was not saved is lost without a question.
        """
        kernel = None
        page = self._page(width, height, dark)
        try:
            kernel = self._start(page, quote(path), dark)
            yield page
        finally:
            page.context.close()
            if kernel is not None:
                self.server.end(kernel)

    def _page(self, width, height, dark):
        """Return an empty page that reaches nothing beyond this machine."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=_PERMISSIONS,
        )
        self.asked = []

        def refuse(route):
            self.asked.append(route.request.url)
            route.abort()

        context.route(_ELSEWHERE, refuse)
        return context.new_page()

    def _start(self, page, path, dark):
        """Have every cell of the notebook run, and return its kernel's id."""
        raise NotImplementedError


class Lab(FrontEnd):
    """JupyterLab. It starts once, which takes seconds, and shows one notebook after another in its page.

    A page in which something failed is not used again.
    """

    name = "lab"

    def __init__(self, server, browser):
        super().__init__(server, browser)
        self._kept = None

    @contextmanager
    def opened(self, path, *, width=1100, height=900, dark=False):
        page, self._kept = self._kept, None
        kernel = None
        try:
            if page is None:
                page = self._page(width, height, dark)
                kernel = self._start(page, quote(path), dark)
            else:
                kernel = self._start_another(page, path, width, height, dark)
            yield page
            page.evaluate(_CLOSE)
            self._kept = page
        finally:
            if self._kept is None and page is not None:
                page.context.close()
            if kernel is not None:
                self.server.end(kernel)

    def _start_another(self, page, path, width, height, dark):
        self.asked = []
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("() => window.jupyterapp.shell.expandLeft()")
        page.evaluate(_OPEN_ANOTHER, path)
        return self._run(page, dark)

    def _address(self, path):
        return self.server.address(f"lab/tree/{path}", reset="")

    def _start(self, page, path, dark):
        page.goto(self._address(path), wait_until="domcontentloaded")
        page.wait_for_function(_IS_OPEN, timeout=60_000)
        return self._run(page, dark)

    def _run(self, page, dark):
        """Run every cell of the notebook that is open, in this theme, and return its kernel's id."""
        kernel = page.evaluate(_OPEN, _THEMES[dark])
        self.run_all(page)
        return kernel

    @staticmethod
    def shows_as(page, *, width, height=900, dark=False):
        """Give the page another size and theme; its widgets stay."""
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate(_THEME, _THEMES[dark])
        page.wait_for_function(_HAS_THEME, arg=str(not dark).lower())

    @staticmethod
    def put_aside(page):
        """Close the sidebar, which takes 252 pixels of the window's width from the cells."""
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    @staticmethod
    def run_all(page):
        """Run every cell from the top; returns when the last one is done."""
        page.evaluate(_RUN_ALL)

    @staticmethod
    def restart(page):
        """Restart the kernel, as the menu does after its question; no cell is run."""
        page.evaluate(_RESTART)

    def saved(self, page):
        """Save the notebook, its widgets' state too, and return what the file then holds, as text.

        It is everything that a person gives away with the notebook: a secret must not be in it.
        """
        return (self.server.folder / page.evaluate(_SAVE)).read_text(encoding="utf-8")


class Notebook7(Lab):
    """Notebook 7: JupyterLab's pieces, one notebook to a page."""

    name = "notebook7"
    opened = FrontEnd.opened  # a page for each notebook

    def _address(self, path):
        return self.server.address(f"notebooks/{path}")


class Voila(FrontEnd):
    """Voilà: the outputs alone."""

    name = "voila"
    # Its icons and formulas; it brings the icons of buttons itself.
    own = (
        "https://cdn.jsdelivr.net/npm/@fortawesome/fontawesome-free@",
        "https://cdnjs.cloudflare.com/ajax/libs/mathjax/",
    )

    def _start(self, page, path, dark):
        address = self.server.address(f"voila/render/{path}", theme="dark" if dark else "light")
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function(_VOILA_IS_SHOWN, timeout=60_000)
        return page.evaluate(_VOILA_KERNEL)


@contextmanager
def running_browser(chromium):
    """Give a headless Chromium; Playwright keeps an event loop running on this thread while it lasts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, headless=True, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running_server(root, folder, *, python=sys.executable, variables=None):
    """Give a Server that shows *folder*; the process, and its kernels, end with it.

    Args:
        root: Where it keeps its settings and its log.
        folder: The folder of the notebooks.
        python: The interpreter of the environment whose Jupyter it is.
        variables: The environment variables, by default this process's.
    """
    token, port = secrets.token_hex(16), _free_port()
    command = [
        *(python, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *("--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True"),
        *("--VoilaConfiguration.show_tracebacks=True", f"--ServerApp.root_dir={folder}"),
        # Over TCP the server goes on to knock at the ports of kernels that are gone, and others' servers get these.
        "--KernelManager.transport=ipc",
    ]
    log = root / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=_variables(root, variables), cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(port, token, folder)
    try:
        _wait_until_up(process, server.address("api/status"), log)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _variables(root, given):
    """Return the environment, with pop-ups about news and updates off and widgets' state saved."""
    settings = root / "settings"
    for plugin, values in {
        "@jupyterlab/apputils-extension/notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
            "doNotDisturbMode": True,
        },
        "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
    }.items():
        file = settings / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    return (os.environ if given is None else given) | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_until_up(process, address, log):
    """Return once the server answers; its own connection attempts pace the loop."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(Path(log).read_text())
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(Path(log).read_text())
