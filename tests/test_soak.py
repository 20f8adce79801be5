"""The count of a soak finds what it is made to find, and a short soak keeps every promise."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import soak
from conftest import ROOT, missing
from mailservers import lacking

ROWS = 5
SENT = {soak.address(n): "sent" for n in range(ROWS)}
COPIES = {(key, f"queued{n}"): 1 for n, key in enumerate(SENT)}
ONE = soak.address(2)


def without(known, key):
    return {k: v for k, v in known.items() if key not in {k, k[0]}}


@pytest.mark.parametrize(
    ("states", "copies", "figure"),
    [
        (SENT, without(COPIES, ONE), "lost"),
        (SENT, COPIES | {(ONE, "another"): 1}, "sent_twice"),
        (SENT, COPIES | {("x@example.test", "q"): 1}, "to_strangers"),
        (SENT | {ONE: "refused"}, COPIES, "refused_but_delivered"),
        (SENT | {ONE: "deferred"}, COPIES, "unknown"),
        (without(SENT, ONE), without(COPIES, ONE), "unknown"),
    ],
)
def test_each_broken_promise_is_counted(states, copies, figure):
    count = soak.judged(ROWS, states, copies)
    assert getattr(count, figure) == 1
    assert not count.good


@pytest.mark.parametrize(
    ("states", "copies", "figure"),
    [
        (SENT | {ONE: "in_doubt"}, COPIES, "doubt_delivered"),
        (SENT | {ONE: "in_doubt"}, without(COPIES, ONE), "doubt_undelivered"),
        (SENT, COPIES | {(ONE, "queued2"): 2}, "again_by_postfix"),
    ],
)
def test_what_nobody_can_help_is_counted_and_breaks_no_promise(states, copies, figure):
    count = soak.judged(ROWS, states, copies)
    assert getattr(count, figure) == 1
    assert count.good


def test_the_memory_of_the_first_third_is_compared_with_that_of_the_last():
    assert soak.grown([10.0, 20.0, 99.0, 99.0, 30.0, 50.0]) == (15.0, 40.0)


def test_of_every_kind_of_recipient_there_are_some():
    kinds = {re.match("[a-z]+", soak.address(n))[0] for n in range(500)}
    assert len(kinds) == 1 + len(soak.KINDS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_mails_keep_every_promise_through_all_faults():
    if why := lacking("postfix"):
        missing(why)
    command = [sys.executable, "scripts/soak.py", "--count", "300", "--minutes", "0.3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
