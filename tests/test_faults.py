"""The fault matrix: what a merge does when server, network, disk or process fail, judged by the server's own log.

Each fault of a transaction meets the first, a middle and the last row of a merge, in three ways of writing:

- ``plain``: the server offers no PIPELINING, so each command waits for its reply;
- ``pipelined``: MAIL, RCPT and DATA share a write once a first mail has earned it. Each mail has a connection of
  its own (``messages_per_connection=1``), so no connection ever has a next row to send ahead;
- ``ahead``: one connection carries all rows, so that a row's text with its dot and the next row's envelope can
  share a write: the fault meets a row whose envelope left before the row before it was answered, or whose dot
  left with the next one's envelope behind it.

The names F01 to F73 are those of the fault matrix that this file works through; TLS (F15 to F23) is tested in
`test_tls_faults`, random kills (F65) in `kill`. What they come to is a table of the documentation: each test notes
its rows, and the last one compares them with the page.

Whatever happens: no row has two copies, no text reaches another row's recipient, the other rows are sent once
unless the fault has to stop the run, and running the merge again with a healthy server sends what is left and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import io
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT
from journals import fresh
from scripted import DROP, KEPT, PIPELINING, PLAIN, RESET, SLOWLY, STALL, Server
from tables import Table

from smtp_notebook import (
    Connection,
    Journal,
    JournalError,
    MergeRefusedError,
    Report,
    State,
    amail_merge,
    mail_merge,
)
from smtp_notebook import _sync as sync
from smtp_notebook import merge as merges

TABLE = Table("explanation/faults.md", "faults", "Fault", "What becomes of the row", "Copies")
ROWS = 7
POSITIONS = {"first": 0, "middle": 4, "last": ROWS - 1}
#: What the server offers, and how the connection is used.
WAYS = {
    "plain": (PLAIN, {"max_connections": 1}),
    "pipelined": (PIPELINING, {"max_connections": 1, "messages_per_connection": 1}),
    "ahead": (PIPELINING, {"max_connections": 1}),
}
LETTER = "---\nsubject: row {{ n }}\n---\nkey-{{ n }}-key\n{{ text }}\n"
SHORT = 0.2  # seconds, where a timeout is the point
LONG = 10.0  # seconds, where it is not
#: More than a socket's buffers hold: the dot cannot have left while nobody reads.
BIG = ("x" * 70 + "\n") * 6_000


# ------------------------------------------------------------------------------------------ the oracle


def address(row, number=0):
    """Return the address of a row's recipient."""
    return f"r{row}.{number}@example.com" if number else f"r{row}@example.com"


def row_of(recipient):
    return int(re.match(r"r(\d+)", recipient)[1])


def frame(rows=ROWS, **special):
    """Return the rows; *special* are cells of some: ``r4={"text": "x"}``."""
    plain = [{"n": i, "To": address(i), "text": "hello"} for i in range(rows)]
    return [row | special.get(f"r{row['n']}", {}) for row in plain]


def merge(server, data, journal, **settings):
    """Run the merge; the same campaign each time."""
    settings = {"timeout": LONG, "dot_timeout": LONG} | settings
    user = settings.pop("user", "")
    return mail_merge(
        data,
        LETTER,
        to="{{ To | addresses }}",
        from_="me@example.com",
        format="text",
        key="n",
        campaign="faults",
        via=Connection.from_url(server.url(user=user), **settings),
        journal=journal,
        progress=False,
    )


def copies(server):
    """Return how often each address got its mail; fails when a text went to somebody else's."""
    for mail in server.log.mails:
        texts = {int(n) for n in re.findall(rb"key-(\d+)-key", mail.content)}
        assert texts == {row_of(r) for r in mail.recipients}, mail.recipients
        assert len(texts) == 1, mail.recipients
    assert all(mail.content == b"" for mail in server.log.nobodys), "a text went to nobody"
    return Counter(r for mail in server.log.mails for r in mail.recipients)


def once(rows):
    """Return the copies where each of the rows, or its recipients, got one."""
    return Counter(r for row in rows for r in row["To"].split("; "))


def nobody_twice(server):
    """Return the copies; fails when there is an address with two."""
    found = copies(server)
    assert max(found.values(), default=0) <= 1, found
    return found


def run_until_all_went(server, data, journal, **settings):
    """Heal the server, run the merge again, and check that everybody has one copy."""
    server.heal()
    report = merge(server, data, journal, **settings)
    assert set(report.counts) <= {State.SENT, State.SKIPPED}, report.text()
    assert copies(server) == once(data)
    return report


def everywhere(monkeypatch, name, value):
    """Exchange a name of the package in every module that has it: whose it is may change."""
    for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "smtp_notebook"]:
        if name in vars(module):
            monkeypatch.setattr(module, name, value)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Return how long the run wanted to wait, each time; its clock goes forward instead."""
    asked = []

    async def pause(seconds):
        asked.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(merges, "PAUSE", pause)
    monkeypatch.setattr(merges, "CLOCK", lambda: time.monotonic() + sum(asked), raising=False)
    return asked


def tells(*rows):
    """Have a test note rows of the table, when it has passed: name, what becomes of the row, and copies."""

    def mark(function):
        function.tells = rows
        return function

    return mark


@pytest.fixture(autouse=True)
def _told(request):
    yield
    for row in getattr(request.function, "tells", ()):
        TABLE.note(*row)


@pytest.fixture
def journal(request):
    """Return where the journal goes: into memory where there is such a place, because hundreds of merges sync."""
    if getattr(request, "param", "file") == "postgresql":
        yield fresh(request.getfixturevalue("postgres"))
        return
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="faults-") as folder:
        yield Path(folder) / "journal.sqlite3"


#: What a process, an interrupt or a loop does to a run is the same with both kinds of journal.
of_both = pytest.mark.parametrize(
    "journal", ["file", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


# --------------------------------------------------------------------------------- faults of one mail


@dataclass(frozen=True)
class End:
    """One way in which the row that met the fault may end.

    Attributes:
        state: Its State.
        status: The connector's status.
        code: The reply's code, where it matters.
        lack: Which of its recipients have no copy then, by number.
        later: Its State when the merge has run again, the server healthy.
        lack_later: Which of its recipients have no copy then.
    """

    state: State
    status: int
    code: int | None = None
    lack: frozenset[int] = frozenset()
    later: State = State.SKIPPED
    lack_later: frozenset[int] = frozenset()

    @property
    def words(self):
        """The end in words, and the copies that each recipient has, for the table."""
        said = {
            State.REFUSED: f"refused, {self.status}",
            State.IN_DOUBT: "in doubt, and never sent again by itself",
        }
        copies = "0" if self.lack == NONE and self.state is not State.PARTIAL else "1"
        if self.state is State.PARTIAL:
            copies = "1 to each that was accepted"
        return said.get(self.state, str(self.state)), copies

    def fits(self, outcome):
        return (outcome.state, outcome.status) == (self.state, self.status) and self.code in {
            None,
            outcome.code,
        }


NONE = frozenset({0})
SENT = End(State.SENT, 200)
#: Nothing was delivered, and it was tried again by itself.
SAFE = (SENT,)


def refused(status, code):
    """Permanently, so an unchanged row is not tried again."""
    return (End(State.REFUSED, status, code, NONE, State.REFUSED, NONE),)


def doubt(kept):
    """Never tried again; whether there is a copy is the server's secret."""
    lack = frozenset() if kept else NONE
    return (End(State.IN_DOUBT, 500, None, lack, State.IN_DOUBT, lack),)


KEPT_DOUBT, LOST_DOUBT = doubt(kept=True), doubt(kept=False)


@dataclass(frozen=True)
class Fault:
    """What the server does to one row, and how that may end.

    Attributes:
        name: Its number in the matrix, and what happens.
        script: Stage and action, once, when that row is there; a function gets the row's number and returns
            a script.
        ends: The permitted ends.
        also: More of the script, at any time.
        server: Settings of the server.
        settings: Settings of the connection.
        recipients: How many the row has.
        text: The row's text.
        ways: In which ways of writing.
        positions: At which rows.
        stops: Whether the rows behind it are not tried in that run, and it is tried again in the next.
        taints: Whether the row before may be in doubt where its dot left in the same write: replies that do not
            fit what was asked put every dot of their group in doubt.
    """

    name: str
    script: dict[str, str] | Callable[[int], dict]
    ends: tuple[End, ...]
    also: dict = field(default_factory=dict)
    server: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    recipients: int = 1
    text: str = "hello"
    ways: tuple[str, ...] = tuple(WAYS)
    positions: tuple[str, ...] = tuple(POSITIONS)
    stops: bool = False
    taints: bool = False

    def at(self, row):
        """Return the server's script for the fault at *row*."""
        script = self.script(row) if callable(self.script) else at_row(row, **self.script)
        return script | self.also

    @property
    def told(self):
        """Its row of the table: every end that is permitted, in order."""
        ends, copies = (list(dict.fromkeys(each)) for each in zip(*(e.words for e in self.ends), strict=True))
        return self.name, " or ".join(ends), " or ".join(copies)

    def frame(self, row):
        to = "; ".join(address(row, i) for i in range(self.recipients))
        return frame(**{f"r{row}": {"To": to, "text": self.text}})


def at_row(row, **actions):
    """Return a script that does *actions* once, when the row is there.

    A row is known by its address, but at MAIL by its number: one connection takes them in order.
    """
    return {
        stage: [None] * row + [action, None] if stage == "mail" else _once(row, action)
        for stage, action in actions.items()
    }


def _once(row, action):
    left = [action]
    return lambda met: left.pop() if left and met == address(row) else None


def from_row(row, stage, action, times=10**9):
    """Return a script that does *action* at *stage* from the row on, so many times."""
    return {stage: [*[None] * row, *[action] * min(times, 1000), *([None] if times < 10**9 else [])]}


def refuse(**answers):
    """Return a script that answers RCPT for some of a row's recipients, by number."""

    def script(row):
        planned = {address(row, int(n.strip("r"))): [answer] for n, answer in answers.items()}
        return {"rcpt": lambda met: planned[met].pop() if planned.get(met) else None}

    return script


def drop_grouped(row):
    """Return a script that hangs up on commands that share a write, from the row on."""
    seen = Counter()

    def mail(met):
        seen["mail"] += 1
        return DROP if met.grouped and seen["mail"] > row else None

    return {"mail": mail}


LINES = "".join("250-more\r\n" for _ in range(19)) + "250 done"
WIDE = "x" * 32 * 1024
MIDDLE = {"positions": ("middle",)}
REUSED = {
    "ways": ("plain", "ahead"),
    "positions": ("middle", "last"),
    "settings": {"attempts": 1},
}
STUCK = {"server": {"window": 4096}, "settings": {"timeout": SHORT}, "text": BIG}
LOGIN_530 = "530 5.7.0 Authentication required"
LATE = {"settings": {"dot_timeout": SHORT}}

FAULTS = [
    Fault("F13 a line of 32 KB at MAIL", {"mail": f"250 {WIDE}"}, SAFE, **MIDDLE),
    Fault("F13 a line of 32 KB at RCPT", {"rcpt": f"250 {WIDE}"}, SAFE, **MIDDLE),
    Fault("F13 a line of 32 KB at DATA", {"data": f"354 {WIDE}"}, SAFE, **MIDDLE),
    # Its first digit can be read; whoever stops reading before the line's end may say that he does not know.
    Fault("F13 a line of 32 KB at the dot", {"dot": f"250 {WIDE}"}, (SENT, *KEPT_DOUBT), **MIDDLE),
    Fault("F14 one reply too many at MAIL", {"mail": "250 ok\r\n250 extra"}, SAFE, **MIDDLE, taints=True),
    Fault("F14 one reply too many at RCPT", {"rcpt": "250 ok\r\n250 extra"}, SAFE, **MIDDLE, taints=True),
    Fault("F14 one reply too many at DATA", {"data": "354 go\r\n250 extra"}, SAFE, **MIDDLE, taints=True),
    Fault("F14 a refusal too many at MAIL", {"mail": "250 ok\r\n550 extra"}, SAFE, **MIDDLE, taints=True),
    Fault("F14 one reply too many at the dot", {"dot": "250 ok\r\n250 extra"}, (SENT, *KEPT_DOUBT), **MIDDLE),
    Fault("F28 530 at MAIL", {"mail": LOGIN_530}, refused(401, 530), stops=True),
    Fault("521 at MAIL", {"mail": "521 5.3.2 no mail here"}, refused(404, 521), stops=True),
    Fault("F29 drop at MAIL", {"mail": DROP}, SAFE),
    Fault("F29 reset at MAIL", {"mail": RESET}, SAFE),
    Fault("F29 silence at MAIL", {"mail": STALL}, SAFE, settings={"timeout": SHORT}),
    Fault("F29 drop at MAIL, not charged", {"mail": DROP}, SAFE, **REUSED),
    Fault("F30 451 at MAIL", {"mail": "451 4.3.0 later"}, SAFE),
    Fault("F31 550 at MAIL", {"mail": "550 5.7.1 not you"}, refused(403, 550)),
    Fault("F32 drop at RCPT", {"rcpt": DROP}, SAFE),
    Fault("F32 reset at RCPT", {"rcpt": RESET}, SAFE),
    Fault("F32 half a reply at RCPT", {"rcpt": "25" + DROP}, SAFE, **MIDDLE),
    Fault("F32 drop at RCPT, not charged", {"rcpt": DROP}, SAFE, **REUSED),
    Fault("F33 450 at RCPT, then 250", {"rcpt": "450 4.7.1 greylisted"}, SAFE),
    Fault("F34 550 at RCPT", {"rcpt": "550 5.1.1 no such user"}, refused(404, 550)),
    Fault("F35 251 at RCPT", {"rcpt": "251 2.1.5 will forward"}, SAFE),
    Fault(
        "F36 one of three refused for good", refuse(r1="550 5.1.1 no"),
        (End(State.PARTIAL, 202, 250, frozenset({1}), State.SKIPPED, frozenset({1})),),
        recipients=3,
    ),
    Fault(
        # The one is tried again within the run.
        "F36 one of three refused for now", refuse(r2="450 4.2.1 later"),
        (End(State.PARTIAL, 202, 250, frozenset({2}), State.SENT), SENT),
        recipients=3,
    ),
    Fault(
        "F36 for good, for now and accepted", refuse(r0="550 5.1.1 no", r2="451 4.3.0 later"),
        (
            End(State.PARTIAL, 202, 250, frozenset({0}), State.SKIPPED, frozenset({0})),
        ),
        recipients=3,
    ),
    *(
        Fault(
            f"F37 {said} after 100 recipients", {}, SAFE,
            server={"most_recipients": (100, f"{said} too many recipients")}, recipients=120,
        )
        for said in ("452 4.5.3", "552")
    ),
    Fault("F38 drop at DATA", {"data": DROP}, SAFE),
    Fault("F38 reset at DATA", {"data": RESET}, SAFE),
    Fault("F38 drop at DATA, not charged", {"data": DROP}, SAFE, **REUSED),
    Fault("F39 451 at DATA", {"data": "451 4.3.0 later"}, SAFE),
    Fault("F39 554 at DATA", {"data": "554 5.7.1 policy"}, refused(403, 554)),
    Fault("250 at DATA", {"data": "250 2.0.0 odd"}, SAFE, taints=True),
    Fault(
        "F40 354 although all were refused", {"rcpt": "550 5.1.1 no"}, refused(404, 550),
        server={"careless": True},
    ),
    Fault(
        "F40 354 although all are to come later", {"rcpt": "450 4.2.1 later"}, SAFE, server={"careless": True}
    ),
    Fault("F41 drop in a long text", {"body": DROP}, SAFE, server={"window": 4096}, text=BIG),
    Fault("F41 reset in a long text", {"body": RESET}, SAFE, server={"window": 4096}, text=BIG),
    # Text and dot of a short mail leave together: nobody can tell that the dot was not read.
    Fault("F41 drop in a short text", {"body": DROP}, (SENT, *LOST_DOUBT)),
    Fault("F41 452 in the text, then the end", {"body": "452 4.3.1 full\r\n" + DROP}, (SENT, *LOST_DOUBT)),
    Fault("F42 a window that never drains", {"body": STALL}, SAFE, **STUCK),
    Fault("F43 accepted, no reply", {"dot": KEPT + DROP}, KEPT_DOUBT),
    Fault("F43 not accepted, no reply", {"dot": DROP}, LOST_DOUBT),
    Fault("F44 accepted, then reset", {"dot": KEPT + RESET}, KEPT_DOUBT),
    Fault("F44 not accepted, then reset", {"dot": RESET}, LOST_DOUBT),
    Fault("F45 accepted, reply too late", {"dot": KEPT + STALL}, KEPT_DOUBT, **LATE),
    Fault("F45 not accepted, reply too late", {"dot": STALL}, LOST_DOUBT, **LATE),
    Fault("F46 accepted, reply cut after 2", {"dot": KEPT + "2" + DROP}, KEPT_DOUBT),
    Fault("F46 not accepted, reply cut after 2", {"dot": "2" + DROP}, LOST_DOUBT),
    Fault("F46 accepted, reply cut after 250", {"dot": KEPT + "250" + DROP}, (SENT, *KEPT_DOUBT)),
    # The digit was read; the rest of the lines say nothing that matters.
    Fault("F46 accepted, cut after a line", {"dot": KEPT + "250-one\r\n" + DROP}, (SENT, *KEPT_DOUBT)),
    Fault("F47 accepted, garbage", {"dot": KEPT + "HTTP/1.1 200 OK"}, KEPT_DOUBT),
    Fault("F47 not accepted, garbage", {"dot": "what?"}, LOST_DOUBT),
    Fault("354 at the dot", {"dot": KEPT + "354 go on"}, KEPT_DOUBT),
    Fault("199 at the dot", {"dot": "199 hm"}, LOST_DOUBT),
    Fault("F50 421 at the dot", {"dot": "421 4.3.0 closing"}, SAFE),
    Fault("F50 451 at the dot", {"dot": "451 4.3.0 later"}, SAFE),
    Fault("F50 452 at the dot", {"dot": "452 4.3.1 full"}, SAFE),
    Fault("F51 552 at the dot", {"dot": "552 5.3.4 too big"}, refused(400, 552)),
    Fault("F52 554 at the dot", {"dot": "554 5.7.1 spam"}, refused(403, 554)),
    Fault("F53 252 at the dot", {"dot": "252 maybe"}, (End(State.SENT, 200, 252),), **MIDDLE),
    Fault("F53 299 at the dot", {"dot": "299 odd"}, (End(State.SENT, 200, 299),)),
    Fault("F54 250 without text", {"dot": "250"}, SAFE),
    Fault("F55 250 in 20 lines", {"dot": LINES}, SAFE),
    *(
        Fault(f"F56 550, and RSET {how}", {"rcpt": "550 5.1.1 no"}, refused(404, 550), also={"rset": action})
        for how, action in {"hangs": STALL, "drops": DROP, "is refused": "502 5.5.1 no"}.items()
    ),
    Fault("F56 554 at DATA, and RSET drops", {"data": "554 5.7.1 no"}, refused(403, 554), also={"rset": DROP}),
    # The row behind it finds the connection closed, and pays nothing for that.
    Fault("F59 closed when idle", {"dot": "250 ok\r\n" + DROP}, SAFE, settings={"attempts": 1}),
    Fault("F59 reset when idle", {"dot": "250 ok\r\n" + RESET}, SAFE, settings={"attempts": 1}),
    Fault(
        "F59 421 when idle", {"dot": "250 ok\r\n421 4.4.2 idle too long\r\n" + DROP}, SAFE,
        settings={"attempts": 1},
    ),
    Fault("F60 421 at MAIL", {"mail": "421 4.7.0 closing"}, SAFE),
    Fault("F60 421 at RCPT", {"rcpt": "421 4.7.0 closing"}, SAFE),
    Fault("F60 421 at DATA", {"data": "421 4.7.0 closing"}, SAFE),
    Fault("F60 421 at MAIL, not charged", {"mail": "421 4.7.0 closing"}, SAFE, **REUSED),
    Fault("F60 421 at RCPT, not charged", {"rcpt": "421 4.7.0 closing"}, SAFE, **REUSED),
    Fault("F60 421 at DATA, not charged", {"data": "421 4.7.0 closing"}, SAFE, **REUSED),
    Fault("F63 hangs up on commands that share a write", drop_grouped, SAFE),
    Fault("F64 454 at MAIL twice", lambda row: from_row(row, "mail", "454 4.7.28 rate", 2), SAFE),
    Fault("F64 450 at RCPT", {"rcpt": "450 4.7.28 rate"}, SAFE),
    Fault("F64 421 at the dot", {"dot": "421 4.7.28 rate"}, SAFE),
    # What a refused MAIL, RCPT or DATA leaves open must not reach the next row's text.
    *(
        Fault(f"F73 {said[:3]} at {stage}, careless", {stage: said}, ends, server={"careless": True})
        for stage, said, ends in (
            ("mail", "550 5.7.1 not you", refused(403, 550)),
            ("mail", "451 4.3.0 later", SAFE),
            ("rcpt", "550 5.1.1 no", refused(404, 550)),
            ("data", "451 4.3.0 later", SAFE),
            ("data", "554 5.7.1 no", refused(403, 554)),
        )
    ),
    *(
        Fault(
            f"F73 451 at DATA, careless, and RSET {how}", {"data": "451 4.3.0 later"}, SAFE,
            also={"rset": action}, server={"careless": True},
        )
        for how, action in {"is refused": "502 5.5.1 no", "drops": DROP}.items()
    ),
]  # fmt: skip

CASES = [
    pytest.param(fault, way, position, id=f"{fault.name}-{way}-{position}")
    for fault in FAULTS
    for way in fault.ways
    for position in fault.positions
]


@pytest.mark.parametrize(("fault", "way", "position"), CASES)
def test_a_fault_costs_its_own_row_at_most(fault, way, position, journal, monkeypatch):
    """The row that meets it ends as promised; the others are sent once; the next run sends what is left."""
    everywhere(monkeypatch, "_RESET_SECONDS", SHORT)
    row = POSITIONS[position]
    data = fault.frame(row)
    offers, settings = WAYS[way]
    settings = settings | fault.settings
    with Server(fault.at(row), offers=offers, **fault.server) as server:
        report = merge(server, data, journal, **settings)
        fitting = [e for e in fault.ends if e.fits(report[row])]
        assert fitting, report.text()
        tried = data[: row + 1] if fault.stops else data
        found = nobody_twice(server)
        end = next((e for e in fitting if found == _without(once(tried), row, e.lack)), None)
        assert end is not None, found
        tainted = (
            [row - 1] if fault.taints and way == "ahead" and report[row - 1].state is State.IN_DOUBT else []
        )
        _check_others(report, {row, *tainted}, stops=fault.stops)
        assert end.state is State.SENT or report[row].reason
        assert [o.row for o in report.in_doubt] == [*tainted, *[row] * (end.state is State.IN_DOUBT)]
        TABLE.note(*fault.told)
        if fault.stops:
            run_until_all_went(server, data, journal, **settings)
            return
        server.heal()
        again = merge(server, data, journal, **settings)
        assert nobody_twice(server) == _without(once(data), row, end.lack_later)
        assert again[row].state is end.later, again.text()
        assert {o.state for o in again if o.row not in {row, *tainted}} == {State.SKIPPED}
        assert [o.row for o in again.in_doubt] == [*tainted, *[row] * (end.later is State.IN_DOUBT)]


def _without(found, row, lack):
    return found - Counter(address(row, n) for n in lack)


def _check_others(report, met, *, stops):
    """Check that whoever did not meet the fault was sent, or not tried where it stops the run."""
    assert [o.row for o in report] == list(range(ROWS))
    behind = State.PLANNED if stops else State.SENT
    for outcome in report:
        if outcome.row not in met:
            assert outcome.state is (State.SENT if outcome.row < min(met) else behind), report.text()


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_of_writing_are_what_they_are_called(way, journal):
    """Else the matrix would try one way three times. The server sees the next MAIL before it answers a dot."""
    offers, settings = WAYS[way]
    with Server(offers=offers) as server:
        merge(server, frame(), journal, **settings)
    assert copies(server) == once(frame())
    if way == "plain":
        assert server.log.grouped == 0
    else:
        assert server.log.grouped >= ROWS - 2
    if way == "ahead":
        assert server.log.ahead >= ROWS - 3, "no envelope left with the dot before it"
    else:
        assert server.log.ahead == 0


# ------------------------------------------------------------------------- faults before any mail, F01 to F14


def slow(octets):
    return SLOWLY + octets


#: What the first connection meets; the next ones are served.
BEFORE_MAIL = {
    "F02 closed before the banner": {"banner": DROP},
    "F03 no banner": {"banner": STALL},
    "F05 banner 421": {"banner": "421 4.3.2 busy"},
    "F06 banner of 100 lines": {"banner": "220-hello\r\n" * 99 + "220 ready"},
    "F08 banner octet by octet": {"banner": slow("220 scripted ESMTP\r\n")},
    "F09 reset in the banner": {"banner": "220 scrip" + RESET},
    "F09 reset instead of a banner": {"banner": RESET},
    "F10 drop after EHLO": {"ehlo": DROP},
    "F10 silence after EHLO": {"ehlo": STALL},
    "F11 EHLO 502, HELO works": {"ehlo": "502 5.5.1 what?"},
    "F12 EHLO's last line never comes": {"ehlo": "250-scripted\r\n250-PIPELINING\r\n" + STALL},
    "F12 EHLO's last line is cut off": {"ehlo": "250-scripted\r\n250-PIPELINING\r\n" + DROP},
    "F13 banner line of 32 KB": {"banner": f"220 {WIDE}"},
    "F13 EHLO line of 32 KB": {"ehlo": f"250 {WIDE}"},
    "F14 a 250 behind the banner": {"banner": "220 hello\r\n250 extra"},
    "F14 a 250 behind EHLO's reply": {"ehlo": "250-scripted\r\n250 PIPELINING\r\n250 extra"},
    "F14 three 250s behind EHLO's reply": {"ehlo": "250 scripted" + "\r\n250 extra" * 3},
}


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("name", BEFORE_MAIL)
def test_a_fault_before_any_mail_loses_no_row(name, connections, journal):
    script = {stage: [action, None] for stage, action in BEFORE_MAIL[name].items()}
    timeout = SHORT if STALL in str(script) else LONG
    with Server(script) as server:
        report = merge(server, frame(), journal, timeout=timeout, max_connections=connections)
        assert nobody_twice(server) == once(frame()), report.text()
        assert report.counts == {State.SENT: ROWS}
        run_until_all_went(server, frame(), journal, timeout=timeout)
    TABLE.note(name, "sent", "1")


NEXT_RUN = "every row stays for the next run"
#: What each connection meets.
NO_SERVICE = {
    "F02 closed before the banner": {"banner": DROP},
    "F03 no banner": {"banner": STALL},
    "F05 banner 421": {"banner": "421 4.3.2 busy"},
    "F08 an octet now and then": {"banner": slow("220 " + "x" * 200)},
    "F09 reset instead of a banner": {"banner": RESET},
    "F10 drop after EHLO": {"ehlo": DROP},
    "F10 silence after EHLO": {"ehlo": STALL},
    "F12 EHLO's last line never comes": {"ehlo": "250-scripted\r\n" + STALL},
    "F08 EHLO's reply octet by octet": {"ehlo": slow("250 " + "x" * 200)},
}


@pytest.mark.parametrize(
    ("name", "connections"),
    [
        *((name, 1) for name in NO_SERVICE),
        *((name, 3) for name in NO_SERVICE if name[:3] in {"F02", "F03", "F05"}),
    ],
)
def test_a_server_that_serves_nobody_ends_the_run_in_time_and_every_row_stays(name, connections, journal):
    with Server(NO_SERVICE[name], pace=SHORT / 4) as server:
        begun = time.monotonic()
        report = merge(server, frame(), journal, timeout=SHORT, max_connections=connections)
        took = time.monotonic() - begun
        assert set(report.counts) <= {State.PLANNED, State.DEFERRED}
        assert len(report) == ROWS
        assert report.notes
        # Each connection has its timeout and a tenth; a loaded machine gets half a second.
        assert took <= server.log.connections * SHORT * 1.1 + 0.5
        run_until_all_went(server, frame(), journal)
    TABLE.note(f"{name}, each time", NEXT_RUN, "0")


@pytest.mark.parametrize(
    ("script", "state"), [({"mail": slow("250 " + "x" * 200)}, State.SENT), ({"dot": slow("250 " + "x" * 200)}, State.IN_DOUBT)],
    ids=["mail", "dot"],
)  # fmt: skip
@tells(
    ("F08 MAIL's reply octet by octet, too slowly", "sent", "1"),
    ("F08 the dot's reply octet by octet, too slowly", "in doubt, and never sent again by itself", "1"),
)
def test_a_reply_that_comes_octet_by_octet_is_waited_for_as_long_as_was_said(script, state, journal):
    """F08: the timeout is for the whole reply, not for each octet of it."""
    script = {stage: [None, action, None] for stage, action in script.items()}
    with Server(script, pace=SHORT / 4) as server:
        begun = time.monotonic()
        report = merge(server, frame(), journal, timeout=SHORT, dot_timeout=SHORT, max_connections=1)
        assert time.monotonic() - begun <= SHORT * 1.1 + 0.5
    assert report[1].state is state
    assert {o.state for o in report if o.row != 1} == {State.SENT}
    nobody_twice(server)


@tells(
    ("F01 nobody listens", "every row stays for the next run", "0"),
)
def test_a_server_that_is_not_there_leaves_every_row_for_the_next_run(journal):
    """F01."""
    with Server() as server:
        pass
    report = merge(server, frame(), journal)
    assert set(report.counts) <= {State.PLANNED, State.DEFERRED}
    assert f"127.0.0.1:{server.port}" in report.notes[0]
    with Server() as server:
        run_until_all_went(server, frame(), journal)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    ("banner", "states"),
    [
        ("554 5.3.2 no service here", {State.REFUSED}),
        ("521 5.3.2 no mail here", {State.REFUSED}),
        # A port that speaks something else may be a refusal or a server that cannot be reached.
        ("HTTP/1.1 400 Bad Request\r\n\r\n" + DROP, {State.REFUSED, State.DEFERRED}),
        ("SSH-2.0-OpenSSH_9.6", {State.REFUSED, State.DEFERRED}),
    ],
)
@tells(
    ("F04 banner 554 or 521", "the run ends with the server's words; every row stays for the next run", "0"),
    ("F07 something that is no SMTP", "the run ends; every row stays for the next run", "0"),
)
def test_a_server_that_takes_no_mail_ends_the_run_with_its_own_words(banner, states, connections, journal):
    """F04, F07: no other row has a better chance; none of them is to blame, so the next run tries them all."""
    with Server({"banner": banner}) as server:
        report = merge(server, frame(12), journal, max_connections=connections)
        assert report.failures
        assert {o.state for o in report.failures} <= states
        assert {o.state for o in report} <= states | {State.PLANNED}
        assert len(report.failures) <= max(3, connections)
        assert all(o.reason for o in report.failures)
        assert all(o.code is None or 200 <= o.code <= 599 for o in report), "a code that no server said"
        assert report.notes
        assert server.log.connections <= 3 * connections
        run_until_all_went(server, frame(12), journal)


# ------------------------------------------------------------------------------------- login, F24 to F28

LOGIN = ("ann", "right")


@pytest.fixture
def password(monkeypatch):
    """Set the password that the next merge finds."""

    def set_it(value):
        monkeypatch.setenv("SMTP_NOTEBOOK_PASSWORD", value)

    set_it("right")
    return set_it


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN PLAIN", "CRAM-MD5 PLAIN LOGIN"])
@tells(
    ("F24 535 to the login", "one login, 401, and the run ends; every row stays for the next run", "0"),
)
def test_a_wrong_password_is_tried_once_in_a_run_and_blames_no_row(
    mechanisms, connections, journal, password
):
    """F24: a second try, with another mechanism or on another connection, is how accounts get locked."""
    password("wrong")
    data = frame(12)
    with Server(login=LOGIN, mechanisms=mechanisms) as server:
        report = merge(server, data, journal, user="ann", max_connections=connections)
        assert server.log.logins == 1
        assert not server.log.mails
        assert {o.status for o in report.failures} == {401}
        assert report.counts[State.PLANNED] >= 12 - connections
        assert "535" in report.notes[0]
        password("right")
        run_until_all_went(server, data, journal, user="ann")


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("action", ["454 4.7.0 temporary", DROP, RESET, "421 4.7.0 closing"])
@tells(
    ("F25 454 to the login, once", "sent", "1"),
    ("F26 drop, reset or 421 in the login, once", "sent", "1"),
)
def test_a_login_that_fails_for_now_is_tried_again(action, connections, journal, password):
    """F25, F26."""
    with Server({"auth": [action, None]}, login=LOGIN) as server:
        report = merge(server, frame(), journal, user="ann", max_connections=connections)
        assert report.counts == {State.SENT: ROWS}, report.text()
        run_until_all_went(server, frame(), journal, user="ann")


@pytest.mark.parametrize("action", ["454 4.7.0 temporary", DROP])
@tells(
    ("F25 454 or drop in the login, each time", "every row stays for the next run", "0"),
)
def test_a_login_that_keeps_failing_for_now_ends_the_run_after_a_few_tries(action, journal, password):
    data = frame(20)
    with Server({"auth": action}, login=LOGIN) as server:
        report = merge(server, data, journal, user="ann", max_connections=2)
        assert set(report.counts) <= {State.PLANNED, State.DEFERRED}
        assert server.log.logins <= 9
        run_until_all_went(server, data, journal, user="ann")


@pytest.mark.parametrize("connections", [1, 4])
@tells(
    ("F27 no login is offered", "refused, and the run ends; every row stays for the next run", "0"),
)
def test_a_server_without_login_stops_a_merge_that_has_one(connections, journal, password):
    """F27."""
    data = frame(12)
    with Server() as server:
        report = merge(server, data, journal, user="ann", max_connections=connections)
        assert server.log.logins == 0
        assert not any(c.startswith("MAIL") for c in server.log.commands)
        assert {o.status for o in report.failures} <= {401, 403}
        assert report.counts[State.PLANNED] >= 12 - connections
        server.login = LOGIN
        run_until_all_went(server, data, journal, user="ann")


@tells(
    (
        "F28 530 at MAIL after a login",
        "refused, 401, and the run ends; every row stays for the next run",
        "0",
    ),
)
def test_a_server_that_wants_another_login_at_mail_hears_no_second_one(journal, password):
    """F28, with a login that worked."""
    with Server({"mail": LOGIN_530}, login=LOGIN) as server:
        report = merge(server, frame(12), journal, user="ann", max_connections=1)
        assert server.log.logins == 1
        assert report.counts == {State.REFUSED: 1, State.PLANNED: 11}
        run_until_all_went(server, frame(12), journal, user="ann")


# -------------------------------------------------------------------------------- doubt and its breaker


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kept", [True, False])
def test_two_doubts_in_a_row_stop_the_run(kept, way, journal):
    """A server that takes mail and does not answer would put everybody in doubt."""
    offers, settings = WAYS[way]
    script = {"dot": [None, *[KEPT + DROP if kept else DROP] * 100]}
    with Server(script, offers=offers) as server:
        report = merge(server, frame(), journal, **settings)
        first, second = (o.row for o in report.in_doubt)
        # A row whose envelope was lost with the first doubt may go at once, or behind the next one.
        assert (first, second) in {(1, 2), (1, 3)}
        assert {o.state for o in report if o.row not in {0, first, second}} <= {State.PLANNED, State.DEFERRED}
        assert "doubt" in report.notes[0]
        assert len(server.log.mails) == (3 if kept else 1)
        server.heal()
        again = merge(server, frame(), journal, **settings)
        assert [o.row for o in again.in_doubt] == [first, second]
        lost = Counter() if kept else once([frame()[first], frame()[second]])
        assert nobody_twice(server) == once(frame()) - lost


def test_two_doubts_with_an_answer_between_them_do_not(journal):
    with Server({"dot": [None, KEPT + DROP, None, KEPT + DROP, None]}) as server:
        report = merge(server, frame(), journal, max_connections=1)
        assert report.counts == {State.SENT: ROWS - 2, State.IN_DOUBT: 2}
        assert nobody_twice(server) == once(frame())


def test_a_server_that_never_answers_a_dot_puts_few_rows_in_doubt(journal):
    """Those whose dots were out when the first doubt was seen, and one that tried whether it still is so."""
    with Server({"dot": KEPT + DROP}) as server:
        report = merge(server, frame(40), journal, max_connections=4)
        assert 2 <= len(report.in_doubt) <= 4 + 1
        assert len(server.log.mails) == len(report.in_doubt)
        server.heal()
        again = merge(server, frame(40), journal, max_connections=4)
        assert len(again.in_doubt) == len(report.in_doubt)
        assert nobody_twice(server) == once(frame(40))


def test_after_a_doubt_one_connection_goes_on_alone_until_it_hears_a_2xx(journal):
    """The other rows of the pool are held at RCPT until the doubt is there; then one dot at a time may leave.

    The first dot behind the doubt is kept waiting until another one arrives, which must not happen, or for 0.3 s.
    """
    events = {}
    open_dots = []
    most = []

    def event(name):
        return events.setdefault(name, asyncio.Event())

    async def rcpt(met):
        if met != address(0) and not event("answered").is_set():
            await event("doubt").wait()

    async def dot(met):
        if met == address(0):
            event("doubt").set()
            return KEPT + DROP
        if event("answered").is_set():
            return None
        open_dots.append(met)
        most.append(len(open_dots))
        if len(open_dots) > 1:
            event("another").set()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event("another").wait(), 0.3)
        event("answered").set()
        return None

    with Server({"rcpt": rcpt, "dot": dot}) as server:
        report = merge(server, frame(12), journal, max_connections=4)
        assert report.counts == {State.SENT: 11, State.IN_DOUBT: 1}
        assert nobody_twice(server) == once(frame(12))
    assert max(most) == 1


# ------------------------------------------------------------------------- pool, limits, QUIT: F57 to F64


@pytest.mark.parametrize(
    ("action", "way"),
    [(action, way) for action in (DROP, RESET, "421 4.3.0 closing", "what?") for way in WAYS]
    + [(STALL, "ahead")],
)
@tells(
    ("F57 drop, reset, 421 or garbage at QUIT", "sent", "1"),
    ("F58 QUIT hangs", "sent; the run ends within 2 s", "1"),
)
def test_what_becomes_of_quit_changes_no_outcome(action, way, journal):
    """F57, F58: where it hangs at the end of a run, that costs 2 s at most, however long a timeout is."""
    offers, settings = WAYS[way]
    with Server({"quit": action}, offers=offers) as server:
        begun = time.monotonic()
        report = merge(server, frame(), journal, **settings)
        assert time.monotonic() - begun < 2.6
        assert report.counts == {State.SENT: ROWS}
        run_until_all_went(server, frame(), journal, **settings)


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
@pytest.mark.parametrize("way", WAYS)
@tells(
    ("F60 421 on one of several connections", "sent; the others go on", "1"),
)
def test_a_421_on_one_of_several_connections_leaves_the_others_alone(way, stage, journal):
    """F60."""
    offers, settings = WAYS[way]
    data = frame(12)
    with Server(at_row(5, **{stage: "421 4.7.0 closing"}), offers=offers) as server:
        report = merge(server, data, journal, **settings | {"max_connections": 3})
        assert report.counts == {State.SENT: 12}, report.text()
        run_until_all_went(server, data, journal, **settings)


@pytest.mark.parametrize("allowed", [1, 2])
@pytest.mark.parametrize("way", ["plain", "ahead"])
@tells(
    ("F61 421 to one connection too many", "sent; fewer connections", "1"),
)
def test_a_pool_shrinks_to_what_the_server_allows_and_charges_no_row(way, allowed, journal):
    """F61: with one attempt for each row, a charged one would be lost."""
    offers, _ = WAYS[way]
    data = frame(30)
    with Server(offers=offers, most_connections=allowed) as server:
        report = merge(server, data, journal, max_connections=6, attempts=1)
        assert report.counts == {State.SENT: 30}, report.text()
        assert 1 <= server.log.turned_away <= 12
        run_until_all_went(server, data, journal)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(
    ("said", "attempts"),
    [
        ("421 4.7.0 too many messages on this connection", 1),
        # What could also be about the mail may cost it an attempt, but not all of them on one connection.
        ("450 4.7.0 too many messages on this connection", 3),
        ("452 4.5.3 too many messages on this connection", 3),
    ],
)
@pytest.mark.parametrize("way", ["plain", "ahead"])
@tells(
    ("F62 421, 450 or 452 after so many mails", "sent by another connection", "1"),
)
def test_a_server_that_takes_so_many_mails_on_a_connection_gets_another_one(way, said, attempts, connections, journal):  # fmt: skip
    """F62."""
    offers, _ = WAYS[way]
    data = frame(10)
    with Server(offers=offers, most_mails=(3, said)) as server:
        report = merge(server, data, journal, max_connections=connections, attempts=attempts)
        assert report.counts == {State.SENT: 10}, report.text()
        assert server.log.connections >= 4
        run_until_all_went(server, data, journal)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("way", ["pipelined", "ahead"])
@tells(
    ("F63 PIPELINING is offered no more", "sent", "1"),
)
def test_a_server_that_stops_offering_pipelining_gets_one_command_at_a_time(way, position, journal):
    """F63: what one connection earned says nothing to another that does not offer it."""
    _, settings = WAYS[way]
    dropped = []

    def drop(met):
        if met == address(POSITIONS[position]) and not dropped:
            dropped.append(server.log.grouped)
            return DROP
        return None

    greeting = "250-scripted\r\n250 SIZE 1000000"
    with Server({"rcpt": drop, "ehlo": lambda _: greeting if dropped else None}) as server:
        report = merge(server, frame(), journal, **settings)
        assert report.counts == {State.SENT: ROWS}
        assert [server.log.grouped] == dropped
        run_until_all_went(server, frame(), journal, **settings)


@pytest.mark.parametrize(
    ("said", "least"),
    [("450 4.7.1 greylisted", 59), ("451 4.7.1 greylisted", 59), ("454 4.7.28 rate", 0.5), ("451 4.3.0 later", 0.5)],
)  # fmt: skip
def test_a_retry_waits_and_greylisting_for_a_minute(said, least, journal, waits):
    """F33, F64: the clock is the test's."""
    with Server({"rcpt": [said, None]}) as server:
        report = merge(server, frame(1), journal)
    assert report.counts == {State.SENT: 1}
    assert sum(waits) >= least


# ------------------------------------------------------------------------------ process: F48, F49, F69, F70

_CHILD = """
import json, sys
from smtp_notebook import Connection, MergeRefusedError, mail_merge
ask = json.loads(sys.argv[1])
try:
    mail_merge(ask["data"], ask["letter"], to="{{ To | addresses }}", from_="me@example.com", format="text", key="n",
               campaign="faults", via=Connection.from_url(ask["url"], **ask["settings"]), journal=ask["journal"],
               progress=False)
except MergeRefusedError as error:
    print(error)
    sys.exit(3)
"""


def child(server, data, journal, code=_CHILD, **settings):
    """Start a process that runs the merge."""
    ask = {
        "url": server.url(),
        "data": data,
        "letter": LETTER,
        "settings": settings,
        "journal": str(journal),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(ask)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def ended(process, seconds=30):
    """Wait for a child and return its exit code and what it printed."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


KILLS = [(way, position, True) for way in WAYS for position in POSITIONS] + [
    (way, "middle", False) for way in WAYS
]


@pytest.mark.parametrize(("way", "position", "kept"), KILLS)
@tells(
    ("F48 killed between dot and reply", "in doubt, and never sent again by itself", "1 or 0"),
)
@of_both
def test_a_process_killed_between_dot_and_reply_leaves_that_row_in_doubt(way, position, kept, journal):
    """F48."""
    row = POSITIONS[position]
    offers, settings = WAYS[way]
    started = []

    def kill(met):
        if met != address(row):
            return None
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait()
        return KEPT + DROP if kept else DROP

    with Server({"dot": kill}, offers=offers) as server:
        started.append(child(server, frame(), journal, **settings))
        assert ended(started[0])[0] == -signal.SIGKILL
        server.heal()
        again = merge(server, frame(), journal, **settings)
        # One connection, one row: the answer to the row before was recorded before this dot left.
        assert [o.row for o in again.in_doubt] == [row]
        assert nobody_twice(server) == once(frame()) - (Counter() if kept else once([frame()[row]]))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("way", WAYS)
@tells(
    ("F49 interrupted between dot and reply", "in doubt, and never sent again by itself", "1"),
)
@of_both
def test_an_interrupt_between_dot_and_reply_leaves_that_row_in_doubt(way, position, journal, monkeypatch):
    """F49: what is in flight has its time, then it is given up; nothing goes out behind the person's back."""
    everywhere(monkeypatch, "GRACE", SHORT)
    row = POSITIONS[position]
    offers, settings = WAYS[way]

    def interrupt(met):
        if met != address(row):
            return None
        os.kill(os.getpid(), signal.SIGINT)
        return KEPT + STALL

    with Server({"dot": interrupt}, offers=offers) as server:
        with pytest.raises(KeyboardInterrupt):
            merge(server, frame(), journal, dot_timeout=60.0, **settings)
        assert len(server.log.mails) == row + 1
        report = Report.last()
        assert [o.row for o in report.in_doubt] == [row]
        assert {o.state for o in report[:row]} <= {State.SENT}
        assert {o.state for o in report[row + 1 :]} <= {State.PLANNED, State.DEFERRED}
        server.heal()
        again = merge(server, frame(), journal, **settings)
        assert [o.row for o in again.in_doubt] == [row]
        assert nobody_twice(server) == once(frame())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("position", ["first", "middle"])
@pytest.mark.parametrize("way", WAYS)
@tells(
    ("F70 interrupted between rows", "the rest stays for the next run", "1"),
)
@of_both
def test_an_interrupt_between_rows_leaves_the_rest_for_the_next_run_which_counts_them(way, position, journal):
    """F70."""
    row = POSITIONS[position]
    offers, settings = WAYS[way]

    def interrupt(met):
        if met == address(row):
            os.kill(os.getpid(), signal.SIGINT)
        if row_of(met) > row + 1:
            return STALL  # far enough: a run that goes on is not stopped by anything else
        return None

    with Server({"dot": interrupt}, offers=offers) as server:
        with pytest.raises(KeyboardInterrupt):
            merge(server, frame(), journal, dot_timeout=1.0, **settings)
        report = Report.last()
        went = len(nobody_twice(server))
        assert set(report.counts) <= {State.SENT, State.PLANNED, State.DEFERRED, State.IN_DOUBT}
        server.heal()
        again = merge(server, frame(), journal, **settings)
        doubts = len(report.in_doubt)
        assert (len(again.skipped), len(again.in_doubt)) == (len(report.sent), doubts)
        assert len(again.sent) == ROWS - len(report.sent) - doubts
        assert row + 1 <= went < ROWS
        assert not once(frame()) - nobody_twice(server) - once([frame()[o.row] for o in again.in_doubt])


@pytest.mark.timeout(15)
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_row_is_rendered_stops_the_run_and_the_next_one_works(journal, monkeypatch):
    """F70: the row is rendered on the calling thread while the background loop waits for it.

    An interrupt must not travel to that loop as an error, where it would end the loop for good.
    """
    everywhere(monkeypatch, "MEMORY_BUDGET", 0)
    for preflight in filter(None, [getattr(merges, "Preflight", None)]):
        monkeypatch.setattr(preflight, "_keep", lambda _self, _content: None, raising=False)
    monkeypatch.setattr(sync, "GRACE", SHORT)
    monkeypatch.setattr(sync, "_LOOP", sync._Loop())  # of its own: if it dies, the other tests live
    calls = Counter()

    def called(number):
        calls[number] += 1
        if number == 3 and calls[number] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return number

    def run(server):
        via = Connection.from_url(server.url(), max_connections=1)
        return mail_merge(
            frame(),
            LETTER + "{{ called(n) }}",
            to="{{ To }}",
            from_="me@example.com",
            format="text",
            key="n",
            campaign="faults",
            values={"called": called},
            via=via,
            journal=journal,
            progress=False,
        )

    with Server() as server:
        # Where the row was kept after all it is rendered once, and nothing interrupts.
        with contextlib.suppress(KeyboardInterrupt):
            run(server)
        assert set(Report.last().counts) <= {State.SENT, State.PLANNED, State.DEFERRED}
        again = run(server)
        assert set(again.counts) <= {State.SENT, State.SKIPPED}
        assert nobody_twice(server) == once(frame())


@tells(
    ("F69 another process sends the campaign", "refused, and names it; taken over when it is dead", "1"),
)
@of_both
def test_a_campaign_that_another_process_sends_is_refused_and_taken_over_when_that_one_is_dead(journal):
    """F69."""
    reached = threading.Event()

    def hold(met):
        if met != address(2):
            return None
        reached.set()
        return STALL

    with Server({"data": hold}) as server:
        other = child(server, frame(), journal, max_connections=1)
        assert reached.wait(20)
        with pytest.raises(MergeRefusedError, match=f"process {other.pid} on "):
            merge(server, frame(), journal)
        assert len(server.log.mails) == 2
        os.kill(other.pid, signal.SIGKILL)
        assert ended(other)[0] == -signal.SIGKILL
        server.heal()
        report = merge(server, frame(), journal)
        # The answer to row 1 may have been about to be recorded together with the intent of row 2.
        assert [o.row for o in report.in_doubt] in ([], [1])
        assert len(report.sent) == ROWS - 2
        assert nobody_twice(server) == once(frame())


@tells(
    ("F69 two processes start together", "one sends, the other is refused", "1"),
)
@of_both
def test_two_processes_that_start_together_send_once(journal):
    """F69: whoever comes second says who is first."""
    over = threading.Event()
    Journal(journal).close()

    async def hold(met):
        if met == address(0):
            await asyncio.to_thread(over.wait, 20)

    with Server({"data": hold}) as server:
        both = [child(server, frame(), journal, max_connections=2) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(ended, process) for process in both]
            first = next(as_completed(futures, 20))
            over.set()
            codes = sorted(future.result()[0] for future in futures)
        assert codes == [0, 3]
        assert "being sent already" in first.result()[1]
        assert nobody_twice(server) == once(frame())
        run_until_all_went(server, frame(), journal)


def test_a_journal_that_many_make_at_the_same_time_is_everybodys(tmp_path):
    """F69: two kernels that both mail for the first time on a machine; which of them makes the file is chance."""
    for attempt in range(10):
        together = threading.Barrier(4)

        def make(path=tmp_path / f"{attempt}.sqlite3", together=together):
            together.wait(10)
            Journal(path).close()

        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make) for _ in range(4)]:
                made.result(20)


@pytest.mark.parametrize("pid", ["own", "init", "none"])
@tells(
    ("F69 a dead run's lock, its number taken", "sent", "1"),
)
def test_a_lock_file_that_names_a_living_process_which_does_not_hold_it_is_taken_over(pid, journal):
    """F69: a dead run's process number may belong to somebody else by now."""
    with Server() as server:
        merge(server, frame(3), journal)
        (lock,) = journal.parent.glob("*.lock")
        number = {"own": os.getpid(), "init": 1, "none": 2**22 + 1}[pid]
        who = {
            "host": platform.node(),
            "boot": "another",
            "pid": number,
            "since": "2026-01-01T00:00:00+00:00",
        }
        lock.write_text(json.dumps(who))
        run_until_all_went(server, frame(), journal)


# ----------------------------------------------------------------------------------- disk: F66, F67, F68


@pytest.fixture
def disk():
    """Call it to have every write to a file fail; the limit is lifted at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*, now=True):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 if now else soft, hard))

    yield full
    full(now=False)


def merge_with_full_disk(server, journal, disk, settings):
    """Run the merge until the journal cannot be written, and make room again."""
    with contextlib.redirect_stdout(io.StringIO()):  # pytest's own is a file
        try:
            with pytest.raises(JournalError):
                merge(server, frame(), journal, **settings)
        finally:
            disk(now=False)
    return Report.last()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("way", WAYS)
@tells(
    ("F66 no room on the disk for an intent", "no dot leaves; it stays for the next run", "0"),
)
def test_without_room_for_the_intent_no_dot_leaves(way, position, journal, disk):
    """F66: the row is not in doubt; the one before may be, whose answer shares a commit with this intent."""
    row = POSITIONS[position]
    offers, settings = WAYS[way]

    def fill(met):
        if met == address(row):
            disk()

    with Server({"data": fill}, offers=offers) as server:
        report = merge_with_full_disk(server, journal, disk, settings)
        assert len(report) == ROWS
        assert nobody_twice(server) == once(frame()[:row])
        assert not server.log.nobodys
        server.heal()
        again = merge(server, frame(), journal, **settings)
        assert {o.row for o in again.in_doubt} <= {row - 1}
        assert nobody_twice(server) == once(frame())


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("way", WAYS)
@tells(
    ("F67 no room on the disk for an answer", "in doubt, and never sent again by itself", "1"),
)
def test_without_room_for_the_answer_the_run_stops_and_the_row_is_in_doubt(way, position, journal, disk):
    """F67."""
    row = POSITIONS[position]
    offers, settings = WAYS[way]

    def fill(met):
        if met == address(row):
            disk()

    with Server({"dot": fill}, offers=offers) as server:
        report = merge_with_full_disk(server, journal, disk, settings)
        assert len(report) == ROWS
        assert nobody_twice(server) == once(frame()[: row + 1])
        server.heal()
        again = merge(server, frame(), journal, **settings)
        assert [o.row for o in again.in_doubt] == [row]
        assert nobody_twice(server) == once(frame())


def cut(share):
    return lambda octets: octets[: int(len(octets) * share)]


#: What a disk may do to the journal's file, and whether that has to be noticed: octets behind the end say nothing.
TORN = {
    "a page less": (lambda octets: octets[:-4096], True),
    # An octet that was 0 anyway; every record is checked all the same.
    "an octet less": (lambda octets: octets[:-1], False),
    "half of it": (cut(0.5), True),
    "its head alone": (lambda octets: octets[:100], True),
    "nothing left": (lambda _: b"", True),
    "zeros for its last page": (lambda octets: octets[:-4096] + bytes(4096), True),
    "zeros for all": (lambda octets: bytes(len(octets)), True),
    "garbage behind it": (lambda octets: octets + b"\xa5" * 5000, False),
}


@pytest.mark.parametrize("name", TORN)
@tells(
    ("F68 a torn or emptied journal", "the run is refused, or the damage changes nothing", "1"),
)
def test_a_torn_journal_is_noticed_before_anybody_is_mailed_twice(name, journal):
    """F68."""
    tear, noticed = TORN[name]
    with Server() as server:
        merge(server, frame(5), journal)
        torn = tear(journal.read_bytes())
        journal.write_bytes(torn)
        refused_it = False
        try:
            merge(server, frame(), journal)
        except JournalError as error:
            refused_it = True
            assert str(journal) in str(error)
            assert journal.read_bytes() == torn
        nobody_twice(server)
        assert len(server.log.mails) == (5 if refused_it else ROWS)
        assert refused_it or not noticed


def _image(journal):
    return {
        p.name: p.read_bytes() for p in journal.parent.iterdir() if not p.name.endswith(("-shm", ".lock"))
    }


@pytest.fixture
def crashed(journal):
    """Return the journal's files at the first RCPT, and at the dot of row 5, as a killed process leaves them."""
    images = []

    def look(met):
        if met == address(len(images) * 5):
            images.append(_image(journal))

    with Server({"rcpt": lambda met: None if images else look(met), "dot": look}) as server:
        merge(server, frame(), journal, max_connections=1)
    return images


@pytest.mark.parametrize("tail", [b"", b"\xa5" * 999, bytes(9000)], ids=["clean", "garbage", "zeros"])
@tells(
    ("F68 garbage behind the last commit", "the row whose dot had left is in doubt", "1"),
)
def test_what_lies_behind_the_last_commit_changes_nothing(tail, crashed, tmp_path):
    """F68: rows that were answered are skipped, the one whose dot had left is in doubt, the rest goes."""
    folder = tmp_path / "again"
    folder.mkdir()
    for name, octets in crashed[1].items():
        (folder / name).write_bytes(octets + (tail if name.endswith("-wal") else b""))
    with Server() as server:
        report = merge(server, frame(), folder / "journal.sqlite3")
        assert [o.row for o in report.in_doubt] == [5]
        assert copies(server) == once(frame()[6:])


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.999])
@tells(
    ("F68 power loss, the journal cut back to its last sync", "the window that was claimed is in doubt", "1"),
)
def test_after_power_loss_a_journal_cut_back_to_its_last_sync_mails_nobody_twice(kept, crashed, tmp_path, monkeypatch):  # fmt: skip
    """F68: what was not synced may be gone, at any octet; the whole armed window is in doubt then, and listed."""
    for name in ("_boot", "boot_id"):
        everywhere(monkeypatch, name, lambda: "another boot")
    folder = tmp_path / "again"
    folder.mkdir()
    armed, now = crashed
    for name, octets in now.items():
        synced = len(armed.get(name, b""))
        whole = len(octets) if not name.endswith("-wal") else synced + int((len(octets) - synced) * kept)
        (folder / name).write_bytes(octets[:whole])
    with Server() as server:
        report = merge(server, frame(), folder / "journal.sqlite3")
        assert not once(frame()[:6]) & copies(server)
        assert {o.row for o in report.in_doubt} | {o.row for o in report.skipped} >= set(range(6))


# ------------------------------------------------------------------------------- clock, fork, loops: F71, F72


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("day", [86_400.0, -86_400.0])
@tells(
    ("F71 the clock jumps by a day", "sent", "1"),
)
def test_a_clock_that_jumps_by_a_day_changes_nothing(day, way, journal, monkeypatch):
    """F71: timers are monotonic, and order comes from sequence numbers."""
    offers, settings = WAYS[way]
    real = time.time
    jumps = []

    class AnyDate(type):
        def __instancecheck__(cls, value):
            return isinstance(value, dt.datetime)

    class Jumping(dt.datetime, metaclass=AnyDate):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.fromtimestamp(real() + sum(jumps), tz)

    monkeypatch.setattr(time, "time", lambda: real() + sum(jumps))
    everywhere(monkeypatch, "dt", types.SimpleNamespace(**vars(dt) | {"datetime": Jumping}))

    def jump(_met):
        jumps.append(day)

    with Server({"rcpt": jump, "data": ["451 4.3.0 later", None]}, offers=offers) as server:
        begun = time.monotonic()
        report = merge(server, frame(), journal, **settings)
        assert time.monotonic() - begun < 5
        assert report.counts == {State.SENT: ROWS}
        assert all(0 <= o.seconds < 5 for o in report)
        jumps.append(-5 * day)
        run_until_all_went(server, frame(), journal, **settings)


_FORKING = """
import json, os, sys
from smtp_notebook import Connection, mail_merge
ask = json.loads(sys.argv[1])
def merge(limit=None):
    return mail_merge(ask["data"], ask["letter"], to="{{ To | addresses }}", from_="me@example.com", format="text",
                      key="n", campaign="faults", via=Connection.from_url(ask["url"], **ask["settings"]),
                      journal=ask["journal"], progress=False, limit=limit)
merge(3)
pid = os.fork()
if not pid:
    code = 1
    try:
        code = 0 if len(merge().sent) == len(ask["data"]) - 3 else 2
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert len(merge().skipped) == len(ask["data"])
"""


@tells(
    ("F72 a forked process", "sent", "1"),
)
@of_both
def test_a_forked_process_goes_on_with_a_loop_of_its_own(journal):
    """F72: the parent's background loop did not come along."""
    with Server() as server:
        assert ended(child(server, frame(), journal, _FORKING, max_connections=2)) == (0, "")
        assert nobody_twice(server) == once(frame())


def amerge(server, data, journal, **settings):
    """Do what `merge` does, awaited."""
    return amail_merge(
        data,
        LETTER,
        to="{{ To | addresses }}",
        from_="me@example.com",
        format="text",
        key="n",
        campaign="faults",
        via=Connection.from_url(server.url(), **settings),
        journal=journal,
        progress=False,
    )


@pytest.mark.parametrize("face", ["awaited", "blocking"])
@tells(
    ("F72 a running loop", "sent", "1"),
)
@of_both
def test_a_running_loop_is_no_obstacle(face, journal):
    """F72: a notebook's cell runs inside one."""

    async def cell(server):
        return (
            await amerge(server, frame(), journal) if face == "awaited" else merge(server, frame(), journal)
        )

    with Server(at_row(3, data="451 4.3.0 later")) as server:
        assert asyncio.run(cell(server)).counts == {State.SENT: ROWS}
        run_until_all_went(server, frame(), journal)


def after_this(call, *arguments):
    """Call something from a hook of the server, but only when that has noted what it was about to note."""
    asyncio.get_running_loop().call_soon(call, *arguments)


@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
@pytest.mark.parametrize("position", POSITIONS)
@tells(
    ("F72 cancelled before a dot", "stays for the next run", "0"),
    ("F72 cancelled behind a dot", "in doubt, and never sent again by itself", "1"),
)
@of_both
def test_a_cancelled_merge_keeps_what_it_knows_and_the_rest_goes_later(position, stage, journal, monkeypatch):
    """F72: a cell that is interrupted cancels what it awaits."""
    everywhere(monkeypatch, "GRACE", SHORT)
    row = POSITIONS[position]

    async def cell(server):
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(amerge(server, frame(), journal, max_connections=1))

        def cancel(met):
            if met != address(row):
                return None
            after_this(loop.call_soon_threadsafe, task.cancel)
            return KEPT + STALL if stage == "dot" else STALL

        server.script[stage] = cancel
        with pytest.raises(asyncio.CancelledError):
            await task

    with Server() as server:
        asyncio.run(cell(server))
        expected = [row] if stage == "dot" else []
        assert [o.row for o in Report.last().in_doubt] == expected
        assert nobody_twice(server) == once(frame()[: row + len(expected)])
        server.heal()
        again = merge(server, frame(), journal)
        assert [o.row for o in again.in_doubt] == expected
        assert nobody_twice(server) == once(frame())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("stage", ["data", "dot"])
@tells(
    ("F72 the loop is closed in mid run", "behind a dot in doubt, else it stays for the next run", "1 or 0"),
)
@of_both
def test_a_loop_closed_in_mid_run_leaves_a_campaign_that_can_be_resumed(stage, journal):
    """F72: whoever stops and closes a loop gets no report, but the journal knows."""
    loop = asyncio.new_event_loop()

    def stop(met):
        if met != address(3):
            return None
        after_this(loop.call_soon_threadsafe, loop.stop)
        return KEPT + STALL if stage == "dot" else STALL

    with Server({stage: stop}) as server:
        with pytest.raises(RuntimeError, match="stopped before"):
            loop.run_until_complete(amerge(server, frame(), journal, max_connections=1))
        loop.close()
        gc.collect()
        assert nobody_twice(server) == once(frame()[: 4 if stage == "dot" else 3])
        server.heal()
        again = merge(server, frame(), journal)
        # One row for the connection: an answer is recorded together with the next intent, or by itself before.
        assert [o.row for o in again.in_doubt] in ([[3]] if stage == "dot" else [[], [2]])
        assert nobody_twice(server) == once(frame())


def test_the_table_says_what_was_found(request):
    """`make tables` writes it."""
    expected = (
        {fault.told[0] for fault in FAULTS} | set(BEFORE_MAIL) | {f"{n}, each time" for n in NO_SERVICE}
    )
    for value in list(globals().values()):
        expected |= {row[0] for row in getattr(value, "tells", ())}
    if expected - {row[0] for row in TABLE.rows} or request.session.testsfailed:
        pytest.skip("only all tests of this file together make the table")
    if request.config.option.tables:
        TABLE.write()
    TABLE.check()
