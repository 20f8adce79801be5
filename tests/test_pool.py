"""What a pool of connections does next, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook.pool import (
    PAUSE,
    SAME_COMPLAINT,
    TRIES,
    Aim,
    Kept,
    Order,
    Pool,
    begun,
    complained,
    enough,
    measured,
    order,
    refused,
    shrunk,
)

CASES = {
    "the first mail makes a connection": (Pool(4), Order.DIAL),
    "the others wait until that one has logged in": (Pool(4, dialling=1), Order.WAIT),
    "then they make their own": (Pool(4, busy=1, proven=True), Order.DIAL),
    "several at a time": (Pool(4, busy=1, dialling=2, proven=True), Order.DIAL),
    "up to the limit": (Pool(4, busy=3, dialling=1, proven=True), Order.WAIT),
    "and not beyond it": (Pool(4, busy=4, proven=True), Order.WAIT),
    "one that stands is taken": (Pool(4, idle=1, busy=2, proven=True), Order.REUSE),
    "also when the limit is reached": (Pool(2, idle=1, busy=1, proven=True), Order.REUSE),
    "also while another one is made": (Pool(4, idle=1, dialling=1, proven=True), Order.REUSE),
    "after a loss the first one is made anew": (Pool(4, proven=True), Order.DIAL),
    "in doubt a mail goes alone": (Pool(4, idle=2, busy=1, proven=True, doubtful=True), Order.WAIT),
    "also behind a connection that is being made": (
        Pool(4, idle=2, dialling=1, proven=True, doubtful=True),
        Order.WAIT,
    ),
    "over one that stands": (Pool(4, idle=2, proven=True, doubtful=True), Order.REUSE),
    "or over a new one": (Pool(4, proven=True, doubtful=True), Order.DIAL),
    "a limit of one is one": (Pool(1, busy=1, proven=True), Order.WAIT),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mail_that_wants_a_connection(name):
    pool, wanted = CASES[name]
    assert order(pool) is wanted


@pytest.mark.parametrize(
    ("pool", "limit"),
    [
        (Pool(8, busy=2, proven=True), 2),
        (Pool(8, idle=1, busy=2, dialling=1, proven=True), 4),
        (Pool(2, busy=2, dialling=3, proven=True), 2),
        (Pool(8), None),
    ],
)
def test_a_server_that_refuses_one_connection_more_keeps_those_that_it_has(pool, limit):
    assert shrunk(pool) == limit


# ------------------------------------------------------------------- how many connections are worth having

NOW = 1000.0


def kept(aim, held):
    """Return what so many mails say that each kept its connection for *held* seconds, all connections at work."""
    mails = enough(aim)
    return Kept([held] * mails, mails * held / aim.goal)


@pytest.mark.parametrize(("most", "goal"), [(1, 1), (3, 3), (4, 4), (5, 4), (100, 4)])
def test_a_run_begins_with_four_connections_where_so_many_are_allowed(most, goal):
    assert begun(most) == Aim(most, goal)


#: What stood before, for how long a mail keeps its connection now, and with how many it goes on.
STEPS = {
    "the first step is free: nothing is known": (Aim(32, 4), 0.02, 8),
    "as long as with fewer: twice as many": (Aim(32, 8, base=4, held=0.02), 0.02, 16),
    "quicker: the more so": (Aim(32, 8, base=4, held=0.02), 0.015, 16),
    "a third of what it could cost is nothing": (Aim(32, 8, base=4, held=0.02), 0.0266, 16),
    "more than that: it is the last step": (Aim(32, 8, base=4, held=0.02), 0.0268, 8),
    "two thirds: still the last step": (Aim(32, 8, base=4, held=0.02), 0.0333, 8),
    "more than that: it is taken back": (Aim(32, 8, base=4, held=0.02), 0.0334, 4),
    "twice as long: nothing was won": (Aim(32, 8, base=4, held=0.02), 0.04, 4),
    "a small step may cost less": (Aim(5, 5, base=4, held=0.02), 0.0234, 4),
    "and never more than the person allows": (Aim(11, 8, base=4, held=0.02), 0.02, 11),
    "also where all are in use": (Aim(8, 8, base=4, held=0.02), 0.02, 8),
    "a clock that stands still says that more cost nothing": (Aim(32, 8, base=4, held=0.0), 0.0, 16),
    "capped: no more before its time": (Aim(8, 2, capped=True, until=NOW + 1), 0.02, 2),
    "then one more as a trial": (Aim(8, 2, capped=True, until=NOW), 0.02, 3),
    "until so many trials failed": (Aim(8, 2, capped=True, until=NOW, tries=TRIES), 0.02, 2),
}


@pytest.mark.parametrize("name", STEPS)
def test_how_many_connections_are_worth_having(name):
    aim, held, goal = STEPS[name]
    assert measured(aim, kept(aim, held), NOW).goal == goal


def test_at_the_default_a_measurement_changes_nothing():
    aim = begun(4)
    for held in (0.02, 0.2, 0.001):
        aim = measured(aim, kept(aim, held), NOW)
        assert aim == replace(begun(4), held=held)


def test_what_connections_say_that_wait_for_rows_or_the_rate_decides_nothing():
    aim = Aim(32, 8, base=4, held=0.02)
    mails = enough(aim)
    assert measured(aim, Kept([0.02] * mails, 0.02 * mails), NOW) == aim


def test_mails_by_which_connections_were_made_and_tried_out_are_not_counted():
    aim = Aim(32, 4)
    slow, quick = [0.5] * 8, [0.02] * 12
    found = measured(aim, Kept([*slow, *quick], sum([*slow, *quick]) / 4), NOW)
    assert (enough(aim), found.held) == (20, 0.02)


def test_trials_come_after_two_minutes_and_then_twice_as_late_each_time():
    aim, now, waits = refused(Aim(8, 4), Pool(4, busy=2), NOW), NOW, []
    while aim.tries < TRIES:
        waits.append(aim.until - now)
        assert measured(aim, kept(aim, 0.02), aim.until - 1).goal == 2
        trial = measured(aim, kept(aim, 0.02), now := aim.until)
        assert trial.goal == 3
        aim = refused(trial, Pool(3, busy=2), now)
    assert waits == [PAUSE * 2**n for n in range(TRIES)]
    assert measured(aim, kept(aim, 0.02), now + 1e9).goal == 2
    assert aim.refused == TRIES + 1


def test_a_trial_that_the_server_took_is_followed_by_others():
    aim, now = refused(Aim(6, 4), Pool(4, busy=1), NOW), NOW
    goals = []
    for _ in range(12):
        now += PAUSE
        aim = measured(aim, kept(aim, 0.02), now)
        goals.append(aim.goal)
    assert max(goals) == goals[-1] == 6
    assert goals == sorted(goals)


#: How many are aimed at, how many stand with the one that was told, whether of connections; how many there are then.
COMPLAINTS = {
    "too many connections: one fewer": (4, 4, True, 3),
    "than stand": (8, 5, True, 4),
    "but one": (1, 1, True, 1),
    "also where none stands any more": (4, 0, True, 1),
    "too many mails: what stands stays": (4, 4, False, 4),
    "and what does not stand is not made": (4, 2, False, 2),
}


@pytest.mark.parametrize("name", COMPLAINTS)
def test_a_server_that_asks_for_less_gets_no_more_for_some_minutes(name):
    goal, standing, crowded, left = COMPLAINTS[name]
    found = complained(Aim(8, goal, base=goal // 2), standing, NOW, crowded=crowded)
    assert (found.goal, found.base, found.capped, found.until) == (left, 0, True, NOW + PAUSE)
    assert (found.refused, found.slowed) == ((1, 0) if crowded else (0, 1))


@pytest.mark.parametrize("crowded", [False, True])
def test_complaints_of_all_connections_at_once_are_one(crowded):
    first = complained(Aim(8, 8), 8, NOW, crowded=True)
    assert complained(first, 7, NOW + SAME_COMPLAINT - 0.1, crowded=crowded) == first
    later = complained(first, 7, NOW + SAME_COMPLAINT, crowded=crowded)
    assert later.goal == 7 - crowded


def test_the_only_connection_that_is_refused_leaves_nothing_to_aim_at():
    assert refused(begun(4), Pool(4), NOW) is None


#: How long a server takes for a mail, in seconds: by itself, and more for each connection. Noise is a factor.
SERVERS = st.tuples(st.floats(0.0005, 1.0), st.floats(0.0, 1.0))
MOST = st.integers(1, 64)


def course(most, held, *, looks=60, every=30.0, cap=64):
    """Return the aims of a run, one each *every* seconds, over a server that takes *cap* connections."""
    aim, now, aims = begun(most), 0.0, []
    for _ in range(looks):
        while aim.goal > cap:
            aim = refused(aim, Pool(aim.goal, busy=cap), now)
        aims.append(aim)
        now += every
        aim = measured(aim, kept(aim, held(aim.goal)), now)
    return aims


@given(most=MOST, server=SERVERS, noise=st.lists(st.floats(0.3, 3.0), min_size=60, max_size=60), cap=MOST)
def test_whatever_the_server_does_there_are_between_one_and_the_most_and_they_do_not_come_and_go(most, server, noise, cap):  # fmt: skip
    alone, share = server
    left = iter(noise)
    aims = course(most, lambda goal: (alone + share * goal) * next(left), cap=cap)
    goals = [aim.goal for aim in aims]
    assert all(1 <= goal <= min(most, cap) for goal in goals)
    rises = [i for i in range(1, len(goals)) if goals[i] > goals[i - 1]]
    capped = [i for i in rises if aims[i - 1].capped]
    assert len(rises) - len(capped) <= 6  # doublings
    assert all(b - a >= PAUSE / 30.0 for a, b in zip(capped, capped[1:], strict=False))


@given(most=MOST, server=SERVERS)
def test_what_is_settled_on_carries_most_of_what_the_best_number_would(most, server):
    alone, share = server

    def speed(goal):
        return goal / (alone + share * goal)

    goal = course(most, lambda goal: alone + share * goal)[-1].goal
    assert speed(goal) >= 0.6 * max(speed(n) for n in range(1, most + 1))


@given(most=MOST)
def test_where_latency_alone_takes_the_time_all_are_used_after_a_few_looks(most):
    assert course(most, lambda _: 0.02, looks=6)[-1].goal == most


@given(most=st.integers(5, 64))
def test_where_a_server_takes_one_mail_at_a_time_more_are_tried_once_and_given_up(most):
    goals = [aim.goal for aim in course(most, lambda goal: 0.001 * goal, looks=4)]
    assert goals == [4, min(most, 8), 4, 4]


@given(cap=st.integers(1, 8), most=MOST)
def test_a_server_that_takes_so_many_refuses_few_more(cap, most):
    aims = course(most, lambda _: 0.02, looks=160, cap=cap)
    assert aims[-1].goal == min(cap, most)
    assert aims[-1].refused <= max(0, min(most, max(4, 2 * cap)) - cap) + TRIES
