"""What a pool of connections does next, case by case."""

from __future__ import annotations

import pytest

from smtp_notebook.pool import Order, Pool, order, shrunk

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
