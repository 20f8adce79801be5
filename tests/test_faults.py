"""The fault matrix: what a merge does when server, network, disk or process fail, judged by the server's own log.

Each fault of a transaction meets the first, a middle and the last row of a merge, in three ways of writing:

- ``plain``: the server offers no PIPELINING, so each command waits for its reply;
- ``pipelined``: MAIL, RCPT and DATA share a write once a first mail has earned it. Each mail has a connection of
  its own (``messages_per_connection=1``), so no connection ever has a next row to send ahead;
- ``ahead``: one connection carries all rows, so that a row's text with its dot and the next row's envelope can
  share a write: the fault meets a row whose envelope left before the row before it was answered, or whose dot
  left with the next one's envelope behind it.

The names F01 to F73 are those of the fault matrix that this file works through; TLS (F15 to F23) is tested with
the transport, random kills (F65) in `kill`.

Whatever happens: no row has two copies, no text reaches another row's recipient, the other rows are sent once
unless the fault has to stop the run, and running the merge again with a healthy server sends what is left and
nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from scripted import DROP, KEPT, PIPELINING, PLAIN, RESET, STALL, Server

from smtp_notebook import Connection, State, mail_merge
from smtp_notebook import transport as transports

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


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal.sqlite3"


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

    def at(self, row):
        """Return the server's script for the fault at *row*."""
        script = self.script(row) if callable(self.script) else at_row(row, **self.script)
        return script | self.also

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
    Fault("F14 one reply too many at MAIL", {"mail": "250 ok\r\n250 extra"}, SAFE, **MIDDLE),
    Fault("F14 one reply too many at RCPT", {"rcpt": "250 ok\r\n250 extra"}, SAFE, **MIDDLE),
    Fault("F14 one reply too many at DATA", {"data": "354 go\r\n250 extra"}, SAFE, **MIDDLE),
    Fault("F14 a refusal too many at MAIL", {"mail": "250 ok\r\n550 extra"}, SAFE, **MIDDLE),
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
        # Trying the one again within the run, or leaving it to the next, are both fine.
        "F36 one of three refused for now", refuse(r2="450 4.2.1 later"),
        (End(State.PARTIAL, 202, 250, frozenset({2}), State.SENT), SENT),
        recipients=3,
    ),
    Fault(
        "F36 for good, for now and accepted", refuse(r0="550 5.1.1 no", r2="451 4.3.0 later"),
        (
            End(State.PARTIAL, 202, 250, frozenset({0, 2}), State.SENT, frozenset({0})),
            End(State.PARTIAL, 202, 250, frozenset({0}), State.SKIPPED, frozenset({0})),
            End(State.PARTIAL, 202, 250, frozenset({0, 2}), State.PARTIAL, frozenset({0})),
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
    Fault("250 at DATA", {"data": "250 2.0.0 odd"}, SAFE),
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
    monkeypatch.setattr(transports, "_RESET_SECONDS", SHORT, raising=False)
    row = POSITIONS[position]
    data = fault.frame(row)
    offers, settings = WAYS[way]
    settings = settings | fault.settings
    with Server(fault.at(row), offers=offers, **fault.server) as server:
        report = merge(server, data, journal, **settings)
        end = next((e for e in fault.ends if e.fits(report[row])), None)
        assert end is not None, report.text()
        tried = data[: row + 1] if fault.stops else data
        assert nobody_twice(server) == _without(once(tried), row, end.lack)
        _check_others(report, row, stops=fault.stops)
        assert end.state is State.SENT or report[row].reason
        assert (row in [o.row for o in report.in_doubt]) == (end.state is State.IN_DOUBT)
        if fault.stops:
            run_until_all_went(server, data, journal, **settings)
            return
        server.heal()
        again = merge(server, data, journal, **settings)
        assert nobody_twice(server) == _without(once(data), row, end.lack_later)
        assert again[row].state is end.later, again.text()
        assert {o.state for o in again if o.row != row} == {State.SKIPPED}
        assert [o.row for o in again.in_doubt] == ([row] if end.later is State.IN_DOUBT else [])


def _without(found, row, lack):
    return found - Counter(address(row, n) for n in lack)


def _check_others(report, row, *, stops):
    """Check that whoever did not meet the fault was sent, or not tried where it stops the run."""
    assert [o.row for o in report] == list(range(ROWS))
    assert {o.state for o in report[:row]} <= {State.SENT}, report.text()
    assert {o.state for o in report[row + 1 :]} <= {State.PLANNED if stops else State.SENT}, report.text()


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
