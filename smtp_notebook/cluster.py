"""A merge whose rows are printed and sent by the workers of a Dask cluster.

The client decides and remembers: it checks what workers found of each row, plans in the journal, hands out batches of
rows, and takes what came of them into one Report. Workers print and send, and write claims, intents and answers
themselves (`workers`). So a worker that is lost costs the rows that it had at their final dot, which are in doubt, and
nothing else; and when the client is lost, its workers stop.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import heapq
import importlib
import operator
import secrets
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from smtp_notebook import merge as merges
from smtp_notebook import times, workers
from smtp_notebook._sync import GRACE, Caller, CallInterruptedError
from smtp_notebook.charts import loaded
from smtp_notebook.frames import ADDRESS_COLUMNS, Frame
from smtp_notebook.groups import Grouped, Groups, firsts_of, refuse_unfoldable
from smtp_notebook.ledger import Ledger
from smtp_notebook.merge import insist
from smtp_notebook.outcome import MailError, MergeRefusedError, Outcome, State, Tuning
from smtp_notebook.parcels import (
    Batch,
    Came,
    Judged,
    Mailing,
    Piece,
    another_version,
    cells_of,
    sealed,
    version,
)
from smtp_notebook.preflight import Preflight, all_suppressed, spared, with_left_out
from smtp_notebook.rate import parse_rates
from smtp_notebook.records import packed, unpacked
from smtp_notebook.roll import Due
from smtp_notebook.standing import Known

if TYPE_CHECKING:
    from smtp_notebook.journal import Journal

__all__ = ["ClusterRun", "Spread", "client_of", "refuse_unspread"]

#: A frame of one machine is cut into parts of so many rows at most.
_PART_ROWS = 1000
#: Each worker gets about so many parts, so that none waits long for the last one.
_PARTS_EACH = 6
_LEAST_PART = 25
#: In so many pieces at most the rows of a Dask DataFrame are moved, so that those of a mail are in one place: a scheduler
#: handles some thousand a second.
_MOST_SHARES = 50_000
#: How many octets of printed mails the workers keep between check and send, each; others are printed again.
KEPT_BYTES = 256 * 2**20
#: A batch lasts about so long, in seconds, and has so many rows at least and at most: few where a rate has them wait, since
#: nothing is told of a row before its batch is done.
BATCH_SECONDS = 2.0
_BATCH_ROWS = (2, 500)
_FIRST_BATCH = 50
#: The first batch goes alone, with so many rows: what is wrong with all of them (a password, a sender who is blocked) is met
#: by one worker, and not by each.
_PILOT_ROWS = 10
#: How often it is looked whether the journal is still held, and how many workers there are, in seconds.
_LOOK_SECONDS = 2.0
#: How often it is said how a check stands that waits for workers, in seconds.
_TELL_SECONDS = 0.25
#: How long a cluster may be without workers, in seconds: those that died may be started anew.
ALONE_SECONDS = 60.0
#: A batch that was lost so often is given up.
_LOSSES = 5
#: How long batches have to end that were asked to, in seconds: each looks twice a second, and has what an interrupt has.
_STOP_SECONDS = GRACE + 2.0

#: What is said of rows of which nothing is known.
_LOST = "The worker that had this row's batch did not say what became of it."
_UNREAD = "It was handed out, and the journal, which knows what became of it, cannot be read."
_UNREAD_FIX = "Run the cell again when it can: that sends the row if it did not go."
#: What is said beside the progress while there are none.
NO_WORKERS = "no workers"

_WENT = frozenset({State.SENT.value, State.PARTIAL.value})

#: Takes a row's key, its position, and its Outcome as `records.packed` has it.
Report = Callable[[str, "int | None", tuple[Any, ...]], object]


def client_of(executor: object) -> Any:
    """Return an executor that is the client of a Dask cluster, or None."""
    return executor if isinstance(executor, loaded("distributed", "Client")) else None


def is_connected(client: Any) -> bool:
    """Tell whether a client has its scheduler: whoever asks one that has not waits for half a minute."""
    return getattr(client, "status", "") == "running"


def there(client: Any) -> Sequence[str]:
    """Return the addresses of the workers that there are.

    Raises:
        MergeRefusedError: The client has no scheduler any more.
    """
    try:
        return list(client.nthreads())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told of
        if is_connected(client):
            raise explained(error) from None
        # What it raises then depends on how far it is closed.
        raise _lost("The cluster's client was closed, or lost its scheduler") from None


def refuse_strangers(client: Any) -> None:
    """Refuse workers that lack this package, or have another version of it; it is loaded there.

    Raises:
        MergeRefusedError: There are such.
    """
    ask = functools.partial(client.run, on_error="return")
    imported: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # a cluster that is lost is told of by what follows
        imported = ask(importlib.import_module, workers.__name__)
        versions = ask(metadata.version, "smtp_notebook") if version() else {}
    for where, found in imported.items():
        if isinstance(found, ImportError):
            raise _lacking(where, found)
    for where, found in versions.items():
        if isinstance(found, str) and found != version():
            raise another_version(where, found, version())


def _lacking(worker: str, error: ImportError) -> MailError:
    said = " ".join(str(error).split())[:200].rstrip(".")
    fix = f'Install it there in the same version: pip install "smtp_notebook[cluster]=={version()}".'
    return MergeRefusedError(f"The worker {worker} cannot load smtp_notebook: {said}.", fix)


def is_dask(df: object) -> bool:
    """Tell whether *df* is a Dask DataFrame."""
    return isinstance(df, loaded("dask.dataframe", "DataFrame"))


def refuse_unspread(df: object) -> None:
    """Refuse a Dask DataFrame where no cluster is to send it.

    Raises:
        MergeRefusedError: It is one.
    """
    if is_dask(df):
        cause = "This is a Dask DataFrame, and no cluster was named to send its rows."
        raise MergeRefusedError(cause, "Give executor=client, of dask.distributed, or pass df.compute().")


# ------------------------------------------------------------------------------------------- the rows


class Spread:
    """The rows of a merge as workers see them; satisfies `preflight.Rowed`.

    Args:
        df: A Dask DataFrame, or what `frames.Frame` takes.
        client: Of the cluster.
        by: The columns by which rows are folded into mails, as in `groups.Grouped`; () for a mail per row.
        marked: As in `groups.Grouped`.

    Attributes:
        groups: Where the rows of each mail stand, where several are one; of a Dask DataFrame once `begin` was called.
        waits: Called some times a second while rows are waited for, with what holds them up, or ""; what it raises ends
            the waiting.

    Raises:
        MergeRefusedError: The cluster has no workers or is not connected to, the client is one for coroutines, or the rows
            cannot be folded.
    """

    def __init__(self, df: Any, client: Any, *, by: Sequence[str] = (), marked: bool = False) -> None:
        if getattr(client, "asynchronous", False):
            raise MergeRefusedError(
                "The cluster's client was made with asynchronous=True.", "Make one without: Client(address)."
            )
        self.client = client
        found = there(client)
        self.workers = len(found)
        self.first = next(iter(found), None)
        if not self.workers:
            raise MergeRefusedError(
                "The cluster has no workers at this moment.",
                "Start some, or wait: client.wait_for_workers(2).",
            )
        refuse_strangers(client)
        self._dask = df if is_dask(df) else None
        self._frame = None if self._dask is not None else Frame(df)
        self.columns: list[str] = (
            [str(c) for c in df.columns] if self._frame is None else list(self._frame.columns)
        )
        self.by = tuple(by)
        self.marked = marked
        self.groups: Groups | None = None
        if self.by and self._frame is not None:
            self.groups = Grouped(self._frame, self.by).groups
        elif self.by:
            refuse_unfoldable(self.columns, self.by)
        self.mailing: Mailing | None = None
        self.waits: Callable[[str], object] | None = None
        self._shared: Any = None
        self._data: list[Any] = []
        self.parts: list[Any] = []
        self._told: list[Any] = []
        #: The groups of each part: the number of its first one, and of the one behind its last.
        self._runs: list[tuple[int, int]] = []
        #: Where the rows of each part stand that was looked at, and the position behind the last of them.
        self._positions: list[Any] = []
        self._ends: list[int] = []
        self._last: tuple[int, Sequence[Judged]] = (-1, ())

    def __repr__(self) -> str:
        return f"<Spread {len(self)} rows in {len(self.parts)} parts>"

    def __len__(self) -> int:
        """Return how many mails there are; of a Dask DataFrame whose rows are not folded, as many as were looked at."""
        return len(self.groups) if self.groups is not None else self._rows

    @property
    def _rows(self) -> int:
        if self._frame is not None:
            return len(self._frame)
        if self.groups is not None:
            return len(self.groups.order)
        return self._ends[-1] if self._ends else 0

    def labels(self) -> Sequence[Any]:
        """Return one label per row: the frame's own index, of a Dask DataFrame the positions."""
        return self._frame.labels() if self._frame is not None else range(self._rows)

    def begin(self, mailing: Mailing) -> None:
        """Have the workers print every row."""
        try:
            self._begin(mailing)
        except BaseException:
            self.close()
            raise

    def _begin(self, mailing: Mailing) -> None:
        self._everywhere(workers.leave_interrupts)
        self._cut()
        room = KEPT_BYTES * self.workers // max(1, len(self._data))
        mailing = replace(mailing, kept=room, by=self.by, marked=self.marked)
        shared = sealed(mailing, "The mailing", of=mailing.id, parts=_given(mailing))
        self.mailing = mailing
        submit = functools.partial(self.client.submit, pure=False)
        # A task, and not data: a cluster that lost it makes it again.
        self._shared = submit(_itself, shared)
        self.parts = [submit(workers.check, self._shared, piece) for piece in self._data]
        self._told = [submit(workers.told_of, part) for part in self.parts]
        self._positions, self._ends, self._last = [], [], (-1, ())

    @property
    def shared(self) -> Any:
        """The mailing, where the cluster has it."""
        return self._shared

    def _cut(self) -> None:
        """Have the rows in the cluster, in parts."""
        self._data = []
        if self._frame is None and self.by:
            self._gather()
        elif self._frame is None:
            assert self._dask is not None
            self._data = self.client.compute(self._dask.to_delayed())
        elif self.groups is not None:
            self._runs = list(self.groups.runs(self._part_rows(len(self._frame))))
            for number, after in self._runs:
                positions, firsts = self.groups.folded(number, after)
                self._hand_over(Piece(self._frame.picked(positions), firsts))
        else:
            count = len(self._frame)
            size = self._part_rows(count)
            for start in range(0, count, size):
                self._hand_over(self._frame.slice(start, start + size))

    def _part_rows(self, count: int) -> int:
        """Return how many rows a part has, of so many."""
        return min(_PART_ROWS, max(_LEAST_PART, -(-count // (_PARTS_EACH * self.workers))))

    def _hand_over(self, rows: Any) -> None:
        self._data.append(self.client.submit(workers.opened, sealed(rows, "The frame"), pure=False))

    def _gather(self) -> None:
        """Have rows of a Dask DataFrame that are one mail in one part, whatever partitions they lie in.

        Positions and the order of rows are those of the partitions, one behind the other. No row passes through this
        process, only by what it is grouped.
        """
        assert self._dask is not None
        submit = functools.partial(self.client.submit, pure=False)
        partitions = self.client.compute(self._dask.to_delayed())
        asked = [submit(workers.keyed, each, self.by) for each in partitions]
        # Whatever happens, `close` lets go of them.
        self._data = [*asked, *partitions]
        lengths: list[int] = []
        digests: list[bytes] = []
        self.groups = Groups(firsts_of(self._keys(asked, lengths, digests)))
        # About as many parts as partitions: each of these may have rows for each of those.
        size = max(self._part_rows(sum(lengths)), -(-sum(lengths) // max(1, len(lengths))))
        self._runs = list(self.groups.runs(size))
        deal = _Deal(lengths)
        parts = [deal.part(*self.groups.folded(number, after)) for number, after in self._runs]
        if deal.count > _MOST_SHARES:
            raise _too_scattered(deal.count, self.by)
        piles = [
            submit(workers.dealt, each, self.by, digest, places)
            for each, digest, places in zip(partitions, digests, deal.places, strict=True)
        ]
        shares = {
            (at, number): submit(operator.getitem, pile, number)
            for at, pile in enumerate(piles)
            for number in range(len(deal.places[at]))
        }
        made = [
            submit(workers.joined, [shares[share] for share in part.shares], part.order, part.firsts)
            for part in parts
        ]
        # The cluster makes them again where it needs them, and keeps them no longer than that.
        for future in (*shares.values(), *piles, *self._data):
            future.release()
        self._data = made

    def _keys(self, asked: Sequence[Any], lengths: list[int], digests: list[bytes]) -> Iterator[str | None]:
        """Yield by what each row is grouped, partition by partition, and note of each how many rows it has."""
        for future in asked:
            keys, digest = self._result(future)
            lengths.append(len(keys))
            digests.append(digest)
            yield from keys

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield what a worker found of each row, in order, with its position; waits for the workers."""
        for part in range(len(self._told)):
            judged = self._judged(part)
            if part == len(self._ends):
                self._note(part, len(judged))
            for position, each in zip(self._positions[part], judged, strict=True):
                yield int(position), cells_of(each)

    def _note(self, part: int, count: int) -> None:
        """Note where the mails of a part stand, which is the next that is looked at."""
        before = self.offset(part)
        if self.groups is None:
            positions: Any = range(before, before + count)
        else:
            positions = self.groups.firsts[slice(*self._runs[part])]
        self._positions.append(positions)
        self._ends.append(int(positions[-1]) + 1 if count else before)

    def _judged(self, part: int) -> Sequence[Judged]:
        if self._last[0] != part:
            self._last = (part, self._result(self._told[part]))
        return self._last[1]

    def _result(self, future: Any) -> Any:
        """Wait for a task; say in a sentence what a person can do about one that failed for the cluster's sake."""
        alone, rounds = 0.0, 0
        while True:
            try:
                error = future.exception(timeout=_TELL_SECONDS)
            except TimeoutError:
                rounds += 1
                if not rounds % round(_LOOK_SECONDS / _TELL_SECONDS):
                    alone = 0.0 if there(self.client) else alone + _LOOK_SECONDS
                if self.waits is not None:
                    self.waits(NO_WORKERS if alone else "")
                if alone < ALONE_SECONDS:
                    continue
                error = nobody_works()
            except (Exception, asyncio.CancelledError) as lost:  # noqa: BLE001 - whatever it is, it is told of
                error = lost
            if error is not None:
                raise explained(error)
            try:
                return future.result()
            except (Exception, asyncio.CancelledError) as lost:  # noqa: BLE001 - whatever it is, it is told of
                raise explained(lost) from None

    def row(self, position: int) -> dict[str, Any]:
        """Return what a worker found of a row that was looked at."""
        part, number = self._found(position)
        return cells_of(self._judged(part)[number])

    def place(self, position: int) -> int:
        """Return at which place in its part a row stands; a group, the first of its rows."""
        part, number = self._found(position)
        if self.groups is None:
            return number
        first, _ = self._runs[part]
        return int(self.groups.starts[first + number] - self.groups.starts[first])

    def _found(self, position: int) -> tuple[int, int]:
        """Return the part that has a row, and which of the part's mails that is."""
        part = self.part_of(position)
        return part, bisect.bisect_left(self._positions[part], position)

    def part_of(self, position: int) -> int:
        """Return the part that has a row."""
        return bisect.bisect_right(self._ends, position)

    @property
    def seen(self) -> int:
        """How many parts were looked at; those behind them have no row that is due."""
        return len(self._ends)

    def offset(self, part: int) -> int:
        """Return the position behind the last row before a part."""
        return self._ends[part - 1] if part else 0

    def end(self, part: int) -> int:
        """Return the position behind a part's last row."""
        return self._ends[part]

    def close(self) -> None:
        """Have the cluster forget all of it."""
        mailing, self.mailing = self.mailing, None
        shared = [self._shared] if self._shared is not None else []
        futures = [*self._told, *self.parts, *shared, *self._data]
        self.parts, self._told, self._shared, self._data = [], [], None, []
        # The cluster may be gone by now.
        with contextlib.suppress(Exception):
            for future in futures:
                # A traceback that somebody keeps would keep the rows in the cluster, too.
                future.release()
        if mailing is not None:
            self._everywhere(workers.close, mailing.id)

    def rest(self) -> None:
        """Close the workers' connections to the server: the next mail is far away."""
        if self.mailing is not None:
            self._everywhere(workers.rest, self.mailing.id)

    def _everywhere(self, function: Callable[..., object], *given: object) -> None:
        """Have each worker that can be asked do something that is no task."""
        if is_connected(self.client):
            with contextlib.suppress(Exception):
                self.client.run(function, *given, on_error="ignore")


class _Dealt(NamedTuple):
    """Of what a part is joined.

    Attributes:
        shares: The partition, and which share of it, of each of its pieces.
        order: Where each of its rows is among those of all pieces, one behind the other.
        firsts: As in `parcels.Piece`.
    """

    shares: list[tuple[int, int]]
    order: Any
    firsts: Any


class _Deal:
    """Shares the rows of partitions out among parts.

    Args:
        lengths: How many rows each partition has.

    Attributes:
        places: For each partition its shares: where their rows stand in it.
        count: How many shares there are.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        import numpy as np

        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._begins = self._ends - np.asarray(lengths, dtype=np.int64)
        self.places: list[list[Any]] = [[] for _ in lengths]
        self.count = 0

    def part(self, positions: Any, firsts: Any) -> _Dealt:
        """Give a part its rows, by their positions in the whole."""
        import numpy as np

        lies_in = np.searchsorted(self._ends, positions, side="right")
        shares = []
        for at in np.unique(lies_in).tolist():
            shares.append((at, len(self.places[at])))
            self.places[at].append(_small(positions[lies_in == at] - self._begins[at]))
        self.count += len(shares)
        # A stable sort leaves the rows of one share in their order, and its inverse is where each then is.
        order = np.argsort(np.argsort(lies_in, kind="stable"), kind="stable")
        return _Dealt(shares, _small(order), _small(firsts))


def _small(places: Any) -> Any:
    """Return places within a part or partition so that they cross in half the octets."""
    return places.astype("int32")


def _too_scattered(count: int, by: Sequence[str]) -> MailError:
    cause = f"The rows of a mail lie in too many partitions: they would be moved in {count:,} pieces."
    fix = f"Bring them together first: df.shuffle({list(by)!r}).to_parquet(…), and merge what that reads."
    return MergeRefusedError(cause, fix)


def _given(mailing: Mailing) -> dict[str, Any]:
    """Return what a person gave of a mailing, by its name."""
    found = {f"values[{name!r}]": value for name, value in mailing.values.items()}
    found |= {f"{name.removesuffix('()')}=": of for name, of in mailing.shown.items() if of is not None}
    return found | {"The template": mailing.template, "The connection": mailing.connection}


def _itself(value: Any) -> Any:
    return value


def mailing_id() -> str:
    """Return what tells a mailing from all others of a cluster."""
    return secrets.token_hex(8)


def shown_columns(
    columns: Sequence[str], key: Sequence[str] | None, **moments: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which cells workers are to send back, and *moments* as they are to be read from those.

    A function of a row is called by the workers, which have the whole row.
    """
    shown: dict[str, Any] = dict.fromkeys(key or ())
    shown |= {c: None for c in columns if c.casefold() in ADDRESS_COLUMNS}
    read = dict(moments)
    for name, given in moments.items():
        if isinstance(given, str):
            shown[given] = None
        elif callable(given):
            shown[f"{name}()"] = given
            read[name] = f"{name}()"
    return shown, read


def nobody_works() -> MailError:
    """Return what is raised where the cluster has had no workers for `ALONE_SECONDS`."""
    cause = f"The cluster has had no workers for {ALONE_SECONDS:.0f} s."
    return MergeRefusedError(cause, "Start some, and run the cell again: it goes on where it stopped.")


def explained(error: BaseException) -> BaseException:
    """Return what is raised for a task that failed: what the task raised, or a sentence on the cluster."""
    name = type(error).__name__
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "smtp_notebook":
        return _lacking("that joined", error)
    if isinstance(error, MailError) or not type(error).__module__.startswith(
        ("distributed", "dask", "asyncio")
    ):
        return error
    if name == "KilledWorker":
        cause = "Several workers ended one after another while they worked on the same rows."
        return MergeRefusedError(
            cause, "Look into their logs: memory is the usual reason. Run the cell again."
        )
    gone = "The connection to the cluster's scheduler was lost, or the client was closed"
    lost = {
        "FutureCancelledError": gone,
        "CommClosedError": gone,
        "ClosedClientError": "The cluster's client was closed",
    }
    said = " ".join(str(error).split())[:200].rstrip(".")
    return _lost(lost.get(name, f"The cluster was lost: {name}: {said}"))


def _lost(what: str) -> MailError:
    fix = "Connect to it anew, and run the cell again: it goes on where it stopped."
    return MergeRefusedError(f"{what}.", fix)


# -------------------------------------------------------------------------------------------- the run


@dataclass(slots=True)
class _Speed:
    """How many rows a batch has: what lasts some seconds."""

    rows: int = _FIRST_BATCH

    def note(self, rows: int, seconds: float) -> None:
        """Take in how long a batch took."""
        if rows and seconds > 0:
            least, most = _BATCH_ROWS
            fitting = int(rows * BATCH_SECONDS / seconds)
            # At most twice as many at once: a batch that had nothing to do says little.
            self.rows = max(least, min(most, 2 * self.rows, fitting))


@dataclass(slots=True)
class _Cursor:
    """How far the rows of a part were handed out."""

    part: int
    last: int
    out: int = 0


@dataclass(slots=True)
class _Out:
    """A batch that is out."""

    batch: Batch
    cursor: _Cursor
    losses: int = 0


@dataclass(order=True, slots=True)
class _Later:
    """A row that waits for another try."""

    due: float
    turn: int
    row: Due = field(compare=False)
    told: tuple[Any, ...] = field(compare=False)


class ClusterRun:
    """Hands batches of rows to workers until each row has its Outcome, or it is stopped; as a `merge.Run`.

    Args:
        spread: The rows, which were checked.
        check: What was found; its roll has those that are due.
        ledger: Of the campaign; None for a trial.
        journal: The ledger's.
        report: Called once per row.
        on_outcome: The person's own; called after *report*, on the calling thread.
    """

    def __init__(
        self,
        spread: Spread,
        check: Preflight,
        *,
        report: Report,
        ledger: Ledger | None = None,
        journal: Journal | None = None,
        on_outcome: Callable[[Outcome], object] | None = None,
    ) -> None:
        assert spread.mailing is not None
        self.stopped = ""
        self.unreachable = False
        self.held_up = ""
        self._spread = spread
        self._mailing = spread.mailing
        self._client = spread.client
        self._check = check
        self._ledger = ledger
        self._journal = journal
        self._report = report
        self._on_outcome = on_outcome
        self._stop = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._caller: Caller | None = None
        self._cursors: list[_Cursor] = []
        self._next_part = 0
        self._exhausted = False
        self._out: dict[Any, _Out] = {}
        self._done: deque[Any] = deque()
        self._later: list[_Later] = []
        self._open: dict[int, Due] = {}
        self._tried: dict[int, int] = {}
        self._number = 0
        self._turn = 0
        self._speed = _Speed()
        #: The most workers that there were; those that died may come back, and find their share.
        self._workers = spread.workers
        self._share = 0
        self._ahead = 0.0
        #: What each worker's connections came to, by its name.
        self._tuned: dict[str, Tuning] = {}
        self._began = merges.CLOCK()
        self._went = 0
        self._failure: BaseException | None = None
        #: Whether a batch came back that nothing stopped.
        self._proved = False

    def __repr__(self) -> str:
        state = ", stopping" if self._stop else ""
        return f"<ClusterRun {len(self._out)} batches out, {len(self._later)} rows waiting{state}>"

    @property
    def tuning(self) -> Tuning | None:
        """What it settled on, over all workers; None where no mail was accepted."""
        found = list(self._tuned.values())
        if not found or not self._went:
            return None
        elapsed = max(merges.CLOCK() - self._began, 1e-6)
        return Tuning(
            # A worker that was lost is followed by another.
            connections=max(each.connections for each in found) * min(len(found), self._workers),
            allowed=self._mailing.connection.max_connections,
            refused=sum(each.refused for each in found),
            seconds=statistics.median(each.seconds for each in found),
            latency=statistics.median(each.latency for each in found),
            elapsed=elapsed,
            mails_per_second=self._went / elapsed,
            slowed=max(each.slowed for each in found),
            rate=self._went / elapsed if any(each.slowed for each in found) else None,
            workers=min(len(found), self._workers),
            batch=self._speed.rows,
        )

    def stop(self, why: str = "Stopped by the person at the notebook.") -> None:
        """Hand out nothing more; rows in flight may finish for some seconds. From any thread."""
        self.stopped = self.stopped or why
        self._stop = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def send(self, caller: Caller) -> None:
        """Send until every row has its Outcome, or it is stopped.

        Raises:
            MailError: The journal failed, or a worker could not send.
        """
        self._loop = asyncio.get_running_loop()
        self._caller = caller
        await self._elsewhere(self._open_pace)
        look = asyncio.ensure_future(self._looking())
        try:
            await self._until_done()
        except asyncio.CancelledError:
            self.stop()
            raise
        finally:
            look.cancel()
            await insist(self._unwound())
        if self._failure is not None:
            raise self._failure

    async def _elsewhere(self, work: Callable[[], Any]) -> Any:
        """Do what blocks for the network in a thread."""
        assert self._loop is not None
        return await self._loop.run_in_executor(None, work)

    def _open_pace(self) -> None:
        """See what time it is, and write down how fast may be sent, for all workers, from what went before."""
        if self._journal is None:
            return
        self._ahead = self._journal.ahead(times.NOW)
        connection = self._mailing.connection
        rates = parse_rates(connection.rate)
        if not rates:
            return
        longest = max(rate.seconds for rate in rates)
        self._journal.pace(connection, rates).open(self._journal.past(connection.scope, longest))

    async def _looking(self) -> None:
        """Hold on to the campaign although this process writes little, and see how many workers there are."""
        seen = merges.CLOCK()
        while True:
            await merges.PAUSE(_LOOK_SECONDS)
            try:
                if self._ledger is not None:
                    await self._elsewhere(self._ledger.hold_on)
                count = len(await self._elsewhere(functools.partial(there, self._client)))
                seen = merges.CLOCK() if count else seen
                self.held_up = "" if count else NO_WORKERS
                self._workers = max(self._workers, count)
            except Exception as error:  # noqa: BLE001 - raised by send()
                self._fail(explained(error))
                return
            if merges.CLOCK() - seen > ALONE_SECONDS:
                self._fail(nobody_works())
                return
            self._changed.set()

    # ------------------------------------------------------------------------------------ handing out

    async def _until_done(self) -> None:
        while not self._stop:
            await self._take_in()
            while not self._stop and len(self._out) < self._most() and await self._hand_out():
                pass
            if self._stop or (not self._out and not self._later and not self._done):
                return
            await self._wait()

    def _most(self) -> int:
        """Return how many batches may be out: one for each worker.

        One that waited for its turn might be given to a worker that joins meanwhile, with connections that are others'.
        """
        connection = self._mailing.connection
        if self._one_by_one or not self._proved:
            return 1
        if self._workers > connection.max_connections:
            return connection.max_connections
        return self._workers

    async def _wait(self) -> None:
        """Wait until a batch came back, a row is due again, or it is to stop."""
        tasks: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._changed.wait())}
        if self._later:
            wait = max(0.0, self._later[0].due - merges.CLOCK())
            tasks.add(asyncio.ensure_future(merges.PAUSE(wait)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        self._changed.clear()

    async def _hand_out(self) -> bool:
        """Give one batch to the cluster; tell whether there was one."""
        assert self._caller is not None
        try:
            if not await self._fits():
                return False
            found = await self._caller.call(self._next)
        except CallInterruptedError:
            self.stop()
            return False
        except Exception as error:  # noqa: BLE001 - raised by send()
            self._fail(error)
            return False
        return found is not None and self._submit(found)

    async def _fits(self) -> bool:
        """Tell whether more may be handed out now: not while others have more connections than is now their share."""
        share = max(1, self._mailing.connection.max_connections // self._workers)
        if share < self._share:
            if self._out:
                return False
            await self._elsewhere(
                functools.partial(self._client.run, workers.rest, self._mailing.id, on_error="ignore")
            )
        self._share = share
        return True

    def _submit(self, out: _Out) -> bool:
        """Give a batch to the cluster; tell whether it took it. The rows of one that it did not are as they were."""
        part = self._spread.parts[out.cursor.part]
        where = self._spread.first if self._one_by_one else None
        try:
            future = self._client.submit(
                workers.send,
                self._spread.shared,
                part,
                out.batch,
                pure=False,
                workers=where,
                allow_other_workers=where is not None,
            )
        except Exception as error:  # noqa: BLE001 - raised by send()
            self._fail(explained(error))
            return False
        self._put(out, future)
        return True

    @property
    def _one_by_one(self) -> bool:
        """Whether one worker sends at a time: a trial has no journal that could hold the rate across workers."""
        return self._ledger is None and bool(self._mailing.connection.rate)

    def _put(self, out: _Out, future: Any) -> None:
        assert self._loop is not None
        loop = self._loop
        self._out[future] = out

        def done(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._came_back, future)

        future.add_done_callback(done)

    def _came_back(self, future: Any) -> None:
        self._done.append(future)
        self._changed.set()

    def _next(self) -> _Out | None:
        """Return the next batch: rows that are due again, or the next ones of the part that has fewest out."""
        if self._check.suppressions is not None:
            self._check.suppressions.refresh()
        while True:
            found = self._due_again() or self._fresh()
            if found is None:
                return None
            cursor, rows = found
            rows = [kept for row in rows if (kept := self._spared(row)) is not None]
            if rows:
                return self._batch(cursor, rows)

    def _batch(self, cursor: _Cursor, rows: Sequence[Due]) -> _Out:
        self._number += 1
        cursor.out += 1
        connection = self._mailing.connection
        crowded = self._workers > connection.max_connections
        partly = self._check.partly
        batch = Batch(
            number=self._number,
            run=self._ledger.run if self._ledger is not None else 0,
            rows=tuple(rows),
            places={row.position: self._spread.place(row.position) for row in rows},
            partly={row.position: partly[row.position] for row in rows if row.position in partly},
            tried={row.position: self._tried[row.position] for row in rows if row.position in self._tried},
            connections=self._share,
            keep=not crowded,
            ahead=self._ahead,
        )
        self._open.update((row.position, row) for row in rows)
        return _Out(batch, cursor)

    def _due_again(self) -> tuple[_Cursor, list[Due]] | None:
        """Return rows of one part whose time for another try has come."""
        now = merges.CLOCK()
        if not self._later or self._later[0].due > now:
            return None
        part = self._spread.part_of(self._later[0].row.position)
        rows: list[Due] = []
        kept: list[_Later] = []
        while self._later and self._later[0].due <= now and len(rows) < self._speed.rows:
            later = heapq.heappop(self._later)
            if self._spread.part_of(later.row.position) == part:
                rows.append(later.row)
            else:
                kept.append(later)
        for later in kept:
            heapq.heappush(self._later, later)
        return _Cursor(part, -1), sorted(rows)

    def _fresh(self) -> tuple[_Cursor, list[Due]] | None:
        """Return rows that were not tried yet, of the part that fewest workers are busy with."""
        while True:
            self._more_cursors()
            if not self._cursors:
                return None
            cursor = min(self._cursors, key=lambda c: c.out)
            rows = self._check.roll.due(cursor.last, self._speed.rows if self._proved else _PILOT_ROWS)
            end = self._spread.end(cursor.part)
            rows = [row for row in rows if row.position < end]
            if rows:
                cursor.last = rows[-1].position
                return cursor, rows
            self._cursors.remove(cursor)

    def _more_cursors(self) -> None:
        """Have as many parts begun as there may be batches out, so that no worker has to wait for another's rows."""
        while len(self._cursors) < self._most() and self._next_part < self._spread.seen:
            part = self._next_part
            self._next_part += 1
            self._cursors.append(_Cursor(part, self._spread.offset(part) - 1))

    def _spared(self, row: Due) -> Due | None:
        """Return a row for those who are not suppressed by now; None, once it is reported, where nobody is left."""
        suppressions = self._check.suppressions
        if suppressions is None or not suppressions.concerns(row.recipients):
            return row
        known = self._check.partly.get(row.position)
        had = {a.casefold() for a in known.accepted} if known is not None else set()
        open_ = tuple(r for r in row.recipients if r.casefold() not in had)
        left, entries = spared(open_, suppressions)
        if not entries:
            return row
        said = with_left_out(row.warnings, entries)
        if left:
            gone = frozenset(open_) - frozenset(left)
            return row._replace(recipients=tuple(r for r in row.recipients if r not in gone), warnings=said)
        self._check.suppressed += 1
        outcome = all_suppressed(row._replace(warnings=said).outcome(State.SKIPPED), entries)
        self._tell(row.position, row.key, packed(outcome))
        return None

    # ------------------------------------------------------------------------------------- taking in

    async def _take_in(self) -> None:
        while self._done:
            future = self._done.popleft()
            out = self._out.pop(future, None)
            if out is None:
                continue
            out.cursor.out -= 1
            try:
                await self._taken(out, future)
            except Exception as error:  # noqa: BLE001 - raised by send()
                self._fail(error)
            finally:
                future.release()  # as in `Spread.close`

    async def _taken(self, out: _Out, future: Any) -> None:
        """Take in what came of a batch; one that was lost with its workers is given to others."""
        try:
            came = await self._elsewhere(future.result)
        except asyncio.CancelledError:
            if future.status != "cancelled":
                raise
            self._fail(explained(_cluster_lost()))
            return
        except Exception as error:  # noqa: BLE001 - raised by send()
            if type(error).__name__ == "KilledWorker" and out.losses < _LOSSES and not self._stop:
                # It has the same number: whoever takes it takes it from those who had it.
                out.losses += 1
                out.cursor.out += 1
                self._submit(out)
            else:
                self._fail(explained(error))
            return
        assert isinstance(came, Came)
        if self._ledger is None:
            await self._forget(workers.begun_event(self._mailing.id, out.batch.number, client=self._client))
        await self._told_by(came, out.batch)

    async def _told_by(self, came: Came, batch: Batch) -> None:
        """Take in what a worker tells of a batch."""
        self._speed.note(len(came.told), came.seconds)
        if came.tuning is not None:
            self._tuned[came.worker] = came.tuning
        again = {position for (position, _), _ in came.again}
        for position, columns in came.told:
            if position not in again:
                await self._settled(position, columns)
        if came.failure is None:
            await self._put_back(came)
        else:
            for (position, columns), _ in came.again:
                await self._settled(position, columns)
            for row in batch.rows:
                self._open.pop(row.position, None)  # nobody tried the others
            self._fail(came.failure)
        if came.stopped and came.stopped != workers.ASKED:
            self.unreachable = self.unreachable or came.unreachable
            self.stop(self._not_reached(came) if came.unreachable else came.stopped)
        self._proved = True

    def _not_reached(self, came: Came) -> str:
        """Say which worker did not reach the server: others may."""
        said = f"On the worker {came.worker}: {came.stopped}"
        if self._workers == 1:
            return said
        go = f"client.retire_workers([{came.worker!r}])"
        return f"{said.rstrip('.')}. Where the others reach it, go on without this one: {go}, then run the cell again."

    async def _forget(self, event: Any) -> None:
        """Have the scheduler keep an event no longer that nobody will ask for."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            await self._elsewhere(event.clear)

    async def _put_back(self, came: Came) -> None:
        """Have the rows tried again that are due for that."""
        if not came.again:
            return
        rows = {position: self._open[position] for (position, _), _ in came.again}
        known = await self._elsewhere(functools.partial(self._known, list(rows.values())))
        for (position, columns), delay in came.again:
            now = known.get(rows[position].record)
            if now is None:
                await self._settled(position, columns)
                continue
            self._tried[position] = now.outcome.attempts
            if now.accepted or now.state is State.PARTIAL:
                self._check.partly[position] = now
            row = rows[position]._replace(seq=now.seq, message_id=now.outcome.message_id)
            self._turn += 1
            heapq.heappush(self._later, _Later(merges.CLOCK() + delay, self._turn, row, columns))

    def _known(self, rows: Sequence[Due]) -> dict[int, Known]:
        """Return what the journal has of rows, by their records."""
        if self._journal is None:
            return {}
        return {known.id: known for known in self._journal.known_at([row.record for row in rows])}

    async def _settled(self, position: int, columns: tuple[Any, ...]) -> None:
        """Report a row that nothing more happens to."""
        row = self._open.pop(position, None)
        self._tried.pop(position, None)
        if row is None:
            return  # reported before
        self._went += columns[0] in _WENT
        self._tell(position, row.key, columns)
        if self._on_outcome is None:
            return
        assert self._caller is not None
        outcome = unpacked(row.key, position, columns)
        try:
            await self._caller.call(functools.partial(self._on_outcome, outcome))
        except CallInterruptedError:
            self.stop()
        except Exception as error:  # noqa: BLE001 - a callback's error ends the run, and is raised by send()
            self._fail(error)

    def _tell(self, position: int, key: str, columns: tuple[Any, ...]) -> None:
        try:
            self._report(key, position, columns)
        except Exception as error:  # noqa: BLE001 - raised by send()
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop(f"{type(error).__name__}: {error}")

    # ----------------------------------------------------------------------------------------- the end

    async def _unwound(self) -> None:
        """Wait for what is out, then have nobody write any more, and tell of every row what the journal knows."""
        if self._out:
            await self._ask_to_stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._all_back()
        for later in self._later:
            await self._settled(later.row.position, later.told)
        self._later.clear()
        if self._ledger is None:
            if not self._out:
                await self._forget(workers.stop_event(self._mailing.id, client=self._client))
            await self._tell_of_lost()
        else:
            try:
                await self._tell_from_journal()
            except Exception as error:  # noqa: BLE001 - raised by send()
                self._fail(error)
                await self._tell_of_lost(_UNREAD, _UNREAD_FIX)
        futures, self._out = list(self._out), {}
        self._done.clear()
        if futures and is_connected(self._client):
            with contextlib.suppress(Exception):  # the cluster may be gone
                await self._elsewhere(functools.partial(self._client.cancel, futures))
        for future in futures:
            with contextlib.suppress(Exception):
                future.release()

    async def _all_back(self) -> None:
        while True:
            await self._take_in()
            if not self._out:
                return
            await self._changed.wait()
            self._changed.clear()

    async def _tell_from_journal(self) -> None:
        """Have nobody write any more, and tell of the rows whose batches did not come back what the journal has."""
        await self._elsewhere(self._end_joined)
        left = list(self._open.values())
        known = await self._elsewhere(functools.partial(self._known, left))
        for row in left:
            now = known.get(row.record)
            if now is not None and now.seq > row.seq:
                await self._settled(row.position, packed(now.outcome.with_(row=row.position)))

    async def _ask_to_stop(self) -> None:
        with contextlib.suppress(Exception):  # then they stop when nobody holds the campaign
            if self._ledger is not None:
                await self._elsewhere(self._ledger.ask_to_stop)
            else:
                await self._elsewhere(self._stop_trial)

    def _stop_trial(self) -> None:
        workers.stop_event(self._mailing.id, client=self._client).set()

    def _end_joined(self) -> None:
        assert self._journal is not None
        assert self._ledger is not None
        self._journal.end_joined(self._ledger)

    async def _tell_of_lost(self, reason: str = _LOST, fix: str = "") -> None:
        """Say of rows whose batches did not come back, and of which no journal tells, that nobody knows what became of them."""
        for row in list(self._open.values()):
            await self._settled(row.position, packed(row.outcome(State.IN_DOUBT, reason=reason, fix=fix)))


def _cluster_lost() -> BaseException:
    return asyncio.CancelledError("its client or scheduler has gone")
