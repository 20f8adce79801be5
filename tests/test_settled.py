"""How a row stands after each kind of verdict: who has the mail, who may still get it, and what is said of it."""

from __future__ import annotations

import datetime as dt

import pytest

from smtp_notebook import State
from smtp_notebook.merge import settled
from smtp_notebook.preflight import Planned
from smtp_notebook.records import packed, planned
from smtp_notebook.replies import Verdict

A, B, C = "a@example.com", "b@example.com", "c@example.com"
NO, LATER, MANY = "550 5.1.1 no", "450 4.2.1 later", "552 too many"


def row(*recipients, accepted=(), refused=()):
    return Planned(0, "k", "me@example.com", recipients, b"", accepted=accepted, refused=refused, attempts=1)


def verdict(state, status=200, **more):
    return Verdict(state=state, status=status, **more)


SENT = verdict(State.SENT, code=250)
LOST = verdict(State.DEFERRED, 202, reason="lost", retry=True)
FAREWELL = verdict(State.REFUSED, 401, code=535, reason="login", stops_run=True)


def partial(*refused, later=()):
    return verdict(State.PARTIAL, 202, code=250, refused=refused, later=later)


# The row, the verdict, attempts left; then state, status, who is tried again, at once?, who has it, who never gets it.
CASES = {
    "accepted": (row(A), SENT, True, State.SENT, 200, (), False, (), ()),
    "lost, and tried again": (row(A), LOST, True, State.DEFERRED, 202, (A,), False, (), ()),
    "lost for the last time": (row(A), LOST, False, State.DEFERRED, 500, (), False, (), ()),
    "refused": (row(A), verdict(State.REFUSED, 404, code=550), True, State.REFUSED, 404, (), False, (), ()),
    "in doubt": (row(A), verdict(State.IN_DOUBT, 500), True, State.IN_DOUBT, 500, (), False, (), ()),
    "one of two refused": (row(A, B), partial((B, NO)), True, State.PARTIAL, 202, (), False, (A,), (B,)),
    "one of two put off": (row(A, B), partial((B, LATER)), True, State.PARTIAL, 202, (B,), False, (A,), ()),
    "put off for the last time": (row(A, B), partial((B, LATER)), False, State.PARTIAL, 202, (), False, (A,), ()),
    "too many at once": (row(A, B), partial((B, MANY), later=(B,)), False, State.PARTIAL, 202, (B,), True, (A,), ()),
    "too many, and one put off": (
        row(A, B, C), partial((B, MANY), (C, LATER), later=(B,)), True, State.PARTIAL, 202, (B, C), False, (A,), (),
    ),
    "the rest, accepted": (row(B, accepted=(A,)), SENT, True, State.SENT, 200, (), False, (A, B), ()),
    "the rest, beside one who was refused": (
        row(B, accepted=(A,), refused=((C, NO),)), SENT, True, State.PARTIAL, 202, (), False, (A, B), (C,),
    ),
    "the rest, lost": (row(B, accepted=(A,)), LOST, True, State.PARTIAL, 202, (B,), False, (A,), ()),
    "the rest, refused": (
        row(B, accepted=(A,)), verdict(State.REFUSED, 404, code=550), True, State.PARTIAL, 202, (), False, (A,), (B,),
    ),
    "the rest, when the run ends": (row(B, accepted=(A,)), FAREWELL, True, State.PARTIAL, 202, (), False, (A,), ()),
    "the rest, in doubt": (
        row(B, accepted=(A,)), verdict(State.IN_DOUBT, 500), True, State.IN_DOUBT, 500, (), False, (A,), (),
    ),
    "put off as a whole, one of them for good": (
        row(A, B), verdict(State.DEFERRED, 202, code=451, retry=True, refused=((B, NO),)), True,
        State.DEFERRED, 202, (A,), False, (), (B,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_row_after_its_transaction(name):
    tried, came, left, state, status, rest, at_once, accepted, never = CASES[name]
    found = settled(tried, came, left=left)
    assert (found.outcome.state, found.outcome.status) == (state, status)
    assert (found.rest, found.at_once) == (rest, at_once)
    assert (found.accepted, tuple(r for r, _ in found.refused)) == (accepted, never)
    everyone = {*tried.recipients, *tried.accepted, *(r for r, _ in tried.refused)}
    assert set(found.outcome.to) == everyone


def test_the_journal_can_tell_who_is_to_be_tried_again():
    """Whoever was put off has an answer that begins with 4, whatever the server said."""
    found = settled(row(A, B), partial((B, MANY), later=(B,)), left=True)
    assert found.outcome.refused == ((B, "452 too many"),)


@pytest.mark.parametrize("warnings", [(), ("look here", "é")])
def test_the_short_ways_to_write_a_row_down_say_what_the_long_ways_say(warnings):
    one = row(A, B)
    one.warnings, one.message_id, one.seconds = warnings, "<1@example.com>", 0.1234567
    one.began = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, dt.UTC)
    found = settled(one, SENT, left=True)
    assert one.sent(SENT.code, SENT.enhanced) == packed(found.outcome)
    fresh = Planned(0, "k", "me@example.com", (A, B), b"", message_id="<1@example.com>", warnings=warnings)
    assert planned((A, B), "<1@example.com>", warnings) == packed(fresh.outcome(State.PLANNED))
