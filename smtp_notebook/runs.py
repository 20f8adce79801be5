"""A notebook executed: a copy of it, in a kernel of its own that ends with the run, in the notebook's folder.

nbclient runs it on a loop of its own in a thread of its own, because the person's loop is running already and
Jupyter's tasks outlive an interrupted run. Nothing that the kernel prints reaches the notebook that calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import math
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook.outcome import MessageError, OptionError
from smtp_notebook.pages import QUIET, Book, needed
from smtp_notebook.pieces import one_line

__all__ = [
    "ON_ERROR",
    "TIMEOUT",
    "Plan",
    "Ran",
    "aexecuted",
    "executed",
    "refuse_unknown_kernel",
    "with_parameters",
]

#: How long one cell may take, in seconds, where nobody says.
TIMEOUT = 3600.0
ON_ERROR = ("stop", "send")
#: What a notebook's kernel is told, so that a notebook that mails itself does not begin kernels without end.
_RUNNING = "SMTP_NOTEBOOK_RUNNING"
_POLL = 0.25
#: How long an interrupted run may take to end its kernel, in seconds; it is killed, not asked.
_UNWIND = 10.0
_SHOWN = 60
_OR_SEND = ", or send it as far as it ran: on_error='send'."
_WHAT = "Running a notebook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How notebooks are run.

    Args:
        kernel: The kernel's name; "" for the notebook's own, else the one of this Python.
        timeout: How long one cell may take, in seconds; None for as long as it likes.
        on_error: Whether a failing cell stops everything or is sent.

    Raises:
        OptionError: One of these cannot be.
    """

    kernel: str = ""
    timeout: float | None = TIMEOUT
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise OptionError(f"on_error={self.on_error!r} is neither 'stop' nor 'send'.")
        if self.timeout is not None and (
            isinstance(self.timeout, bool)
            or not isinstance(self.timeout, int | float)
            or not 0 < self.timeout < math.inf
        ):
            cause = f"timeout={self.timeout!r} is no number of seconds."
            raise OptionError(cause, "Give seconds for each cell, or None for no limit.")


@dataclass(frozen=True, slots=True)
class Ran:
    """A notebook after its run.

    Attributes:
        book: The notebook with what its cells showed; those behind a failing one were not run.
        failure: What failed, in one line, or "".
        error: The failing exception's own last line, or "".
    """

    book: Book
    failure: str = ""
    error: str = ""


# ----------------------------------------------------------------------------------------- parameters

#: papermill leaves what these languages expand inside of quotes: text from a frame would be run there.
_EXPANDING = frozenset({"julia", "powershell", ".net-powershell"})


def with_parameters(book: Book, parameters: Mapping[str, Any], kernel: str = "") -> Book:
    """Return the notebook with a cell that sets parameters, as papermill does.

    It stands behind the cell tagged ``parameters``, in the place of one that an earlier run left, else first
    (https://papermill.readthedocs.io/en/latest/usage-parameterize.html).

    Raises:
        MessageError: papermill is not installed, or cannot write a value in the notebook's language.
    """
    if not parameters:
        return book
    translate = needed("papermill.translators", "Giving a notebook parameters").translate_parameters
    language = book.language
    if language in _EXPANDING and any("$" in str(v) for v in parameters.values()):
        cause = f"A parameter has a $ in it, which {language} would expand."
        raise MessageError(cause, "Take it out, or have the notebook read the value itself.")
    try:
        source = translate(kernel or book.kernel or "python3", language, dict(parameters), "Parameters")
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}").rstrip(".")
        cause = f"The parameters cannot be written for the kernel of {book.name}: {why}."
        raise MessageError(cause, "Give text, numbers, truth values, lists and dicts.") from error
    node = copy.deepcopy(book.node)
    cell = needed("nbformat", _WHAT).v4.new_code_cell(source, id="parameters-of-this-run")
    cell.metadata["tags"] = [_INJECTED]
    before, after = _split(node.cells)
    node.cells = [*before, cell, *after]
    return book.with_node(node)


_INJECTED = "injected-parameters"


def _split(cells: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the cells before and after the parameters."""
    tags = [c.metadata.get("tags") or [] for c in cells]
    for tag, skip in ((_INJECTED, 0), ("parameters", 1)):
        place = next((n for n, found in enumerate(tags) if tag in found), None)
        if place is not None:
            return cells[: place + skip], cells[place + 1 :]
    return [], cells


# ------------------------------------------------------------------------------------------ the kernel


def refuse_unknown_kernel(book: Book, plan: Plan) -> None:
    """Refuse a run that could not begin.

    Raises:
        MessageError: nbclient or the kernel is not installed, or this very notebook is being run already.
    """
    needed("nbclient", _WHAT)
    running = os.environ.get(_RUNNING, "").split(os.pathsep)
    if str(_place(book)) in running:
        cause = f"{book.name}.ipynb is being run just now, and would run itself again."
        raise MessageError(cause, "Leave run=True out inside the notebook, or send another one.")
    specs = needed("jupyter_client.kernelspec", _WHAT)
    manager = specs.KernelSpecManager(log=QUIET)
    name = plan.kernel or book.kernel or specs.NATIVE_KERNEL_NAME
    try:
        manager.get_kernel_spec(name)
    except specs.NoSuchKernel:
        known = ", ".join(sorted(manager.find_kernel_specs())) or "none: pip install ipykernel"
        cause = f"{book.name} needs the kernel {name!r}, which is not here."
        raise MessageError(cause, f"Give kernel=…; there are: {known}.") from None


def _place(book: Book) -> Path:
    return book.folder / f"{book.name}.ipynb"


def executed(book: Book, plan: Plan, parameters: Mapping[str, Any] | None = None) -> Ran:
    """Return the notebook after a run, and wait for it here; see `Plan`.

    At an interrupt the kernel is killed before KeyboardInterrupt goes on.

    Raises:
        MessageError: It cannot be run, or a cell failed and *plan* does not send that.
    """
    run = _Run(book, plan, parameters or {})
    run.start()
    try:
        while not run.done.done():
            concurrent.futures.wait([run.done], timeout=_POLL)
    except BaseException:
        run.end()
        with contextlib.suppress(KeyboardInterrupt):  # a second one: the kernel dies all the same, unwatched
            concurrent.futures.wait([run.done], timeout=_UNWIND)
        raise
    return run.result()


async def aexecuted(book: Book, plan: Plan, parameters: Mapping[str, Any] | None = None) -> Ran:
    """Do what `executed` does, awaited; a cancelled run has ended its kernel before that goes on."""
    run = _Run(book, plan, parameters or {})
    run.start()
    waiting = asyncio.wrap_future(run.done)
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        run.end()
        await asyncio.wait([waiting], timeout=_UNWIND)
        raise
    except Exception:  # noqa: BLE001, S110 - result() raises it, explained
        pass
    return run.result()


class _Run:
    """One run, on a thread and a loop of its own."""

    def __init__(self, book: Book, plan: Plan, parameters: Mapping[str, Any]) -> None:
        refuse_unknown_kernel(book, plan)
        nbclient = needed("nbclient", _WHAT)
        self.done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._plan = plan
        self._book = with_parameters(book, parameters, plan.kernel)
        self._node = _without_outputs(self._book.node)
        self._number = 0
        self._client = nbclient.NotebookClient(
            self._node,
            timeout=None if plan.timeout is None else math.ceil(plan.timeout),
            kernel_name=plan.kernel,
            resources={"metadata": {"path": str(book.folder)}},
            # The times of a run would make each of its mails another one, and a mail shows no widgets.
            record_timing=False,
            store_widget_state=False,
            on_cell_execute=self._begins,
            log=QUIET,
        )
        # The loop that works with sockets alone, which Jupyter's need on Windows too.
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        self._loop = self._runner.get_loop()
        self._task: asyncio.Task[Any] | None = None
        self._over = False

    def start(self) -> None:
        """Begin."""
        self.done.set_running_or_notify_cancel()
        threading.Thread(target=self._work, name="smtp_notebook run", daemon=True).start()

    def _work(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        if self._over:
            return
        client = self._client
        client.create_kernel_manager().log = QUIET
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        async with client.async_setup_kernel(env=self._environment(), **quiet):
            try:
                await client.async_execute(cleanup_kc=False)
            except BaseException:
                if self._over or not self._failed():
                    client.shutdown_kernel = "immediate"  # it does not answer
                raise

    def _environment(self) -> dict[str, str]:
        running = [os.environ.get(_RUNNING, ""), str(_place(self._book))]
        name = f"{self._book.name}.ipynb"
        return os.environ | {_RUNNING: os.pathsep.join(filter(None, running)), "JPY_SESSION_NAME": name}

    def end(self) -> None:
        """Have the run end now, and its kernel with it."""
        self._over = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task is not None else None)

    def _begins(self, *, cell_index: int, **_: Any) -> None:
        self._number = cell_index

    def _failed(self) -> bool:
        """Tell whether the cell that ran last shows an error."""
        return any(o.output_type == "error" for o in self._node.cells[self._number].get("outputs", ()))

    def result(self) -> Ran:
        """Return what came of it, once it is done."""
        problem = self.done.exception()
        book = self._book.with_node(self._node)
        if problem is None:
            return Ran(book)
        if not isinstance(problem, Exception):
            raise problem
        failure, error, fix = self._explained(problem)
        if self._plan.on_error == "send" and error:
            return Ran(book, failure, error)
        raise MessageError(f"{self._book.name}.ipynb: {failure}.", fix) from problem

    def _explained(self, problem: Exception) -> tuple[str, str, str]:
        """Return what failed, in a few words why where the cells before it can be sent, and what to do."""
        exceptions = needed("nbclient.exceptions", _WHAT)
        if isinstance(problem, exceptions.CellExecutionError):
            error = one_line(f"{problem.ename}: {problem.evalue}").rstrip(":. ")
            return f"{self._cell()} failed: {error}", error, f"Mend it{_OR_SEND}"
        if isinstance(problem, exceptions.CellTimeoutError):
            error = f"took longer than {self._plan.timeout:g} s"
            return (
                f"{self._cell()} {error}",
                error,
                f"Give timeout= more seconds for each cell, or None{_OR_SEND}",
            )
        if isinstance(problem, exceptions.DeadKernelError):
            return f"the kernel died in {self._cell()}", "the kernel died", f"Look at its memory{_OR_SEND}"
        error = one_line(f"{type(problem).__name__}: {problem}").rstrip(".")
        return f"it could not be run: {error}", "", "Run it in Jupyter to see more."

    def _cell(self) -> str:
        """Return how a person finds the cell: its number among those with code, and how it begins."""
        cell = self._node.cells[self._number]
        tags = [c.metadata.get("tags") or [] for c in self._node.cells]
        if _INJECTED in tags[self._number]:
            return "the cell with the parameters"
        before = range(self._number + 1)
        # Empty cells are not run, and the one that was put in is not the person's.
        count = sum(
            c.cell_type == "code" and bool(c.source.strip()) and _INJECTED not in tags[n]
            for n, c in zip(before, self._node.cells, strict=False)
        )
        first = next(filter(None, map(str.strip, cell.source.splitlines())), "")
        return f"cell [{count}] ({first if len(first) <= _SHOWN else f'{first[:_SHOWN]}…'})"


def _without_outputs(node: Any) -> Any:
    """Return a copy that shows nothing yet: what an earlier run left must not be sent as this one's."""
    fresh = copy.deepcopy(node)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    fresh.metadata.pop("widgets", None)
    return fresh
