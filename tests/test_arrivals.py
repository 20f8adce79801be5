"""Which rows a poll tries, which wait, and when the others are due."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_notebook import MergeRefusedError, Outcome, State
from smtp_notebook.arrivals import (
    Due,
    backoff,
    due_rows,
    key_columns,
    key_or_none,
    keyed,
    retry_after,
    sort,
)
from smtp_notebook.frames import Frame
from smtp_notebook.watchbook import BEFORE

NOW = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
NONE = Due((), ())


def part(*ids, **cells):
    return [{"Id": i, "Email": f"{i}@example.com", **cells} for i in ids]


def frames(*parts):
    return [Frame(rows) for rows in parts]


def rows_of(*parts):
    return keyed(frames(*parts), ("Id",))


def outcome(state, key="a", *, minutes=None, **more):
    started = None if minutes is None else NOW - dt.timedelta(minutes=minutes)
    return Outcome(state=state, key=key, started=started, **more)


# ------------------------------------------------------------------------------------------------ keys


def test_the_key_columns_are_the_named_ones_else_the_column_of_the_addresses():
    assert key_columns(frames(part("a")), ("Id",)) == ("Id",)
    assert key_columns(frames(part("a")), ()) == ("Email",)


def test_a_key_column_that_no_part_has_is_named_beside_those_that_there_are():
    with pytest.raises(MergeRefusedError, match=r"'ID'.*'Id', 'Email'"):
        key_columns(frames(part("a")), ("ID",))


def test_without_a_column_of_addresses_a_key_is_asked_for():
    with pytest.raises(MergeRefusedError, match="key="):
        key_columns(frames([{"Name": "Ann"}]), ())


def test_a_row_without_a_key_has_one_that_stays_whatever_empty_columns_are_beside_it():
    found = rows_of([{"Id": "", "Name": "Ann"}, {"Id": None, "Name": "Ann", "More": None}])
    assert found[0].key == found[1].key
    assert found[0].nameless
    assert rows_of([{"Id": "", "Name": "Bob"}])[0].key != found[0].key


def test_a_part_that_lacks_the_key_column_loses_no_row():
    found = rows_of(part("a"), [{"Email": "b@example.com"}])
    assert [row.nameless for row in found] == [False, True]


def test_a_source_is_told_of_no_key_where_there_is_none():
    assert key_or_none(("Id",), {"Id": 1.0}) == "1"
    assert not key_or_none(("Id",), {"Id": None})
    assert not key_or_none(("Id",), {"Name": "Ann"})


# ------------------------------------------------------------------------------------------- what is due


@pytest.mark.parametrize(
    ("row", "times", "expected"),
    [
        (outcome(State.PLANNED), 0, "tried"),
        (outcome(State.FAILED, reason="a bug", minutes=0), 0, "tried"),
        # A person said that it did not arrive.
        (outcome(State.PLANNED, reason="Resolved by a person.", attempts=1), 0, "tried"),
        # Nobody of it may be mailed.
        (outcome(State.PLANNED, reason="a@example.com is suppressed"), 0, "looked at"),
        (outcome(State.DEFERRED, minutes=29), 1, ""),
        (outcome(State.DEFERRED, minutes=30), 1, "tried"),
        (outcome(State.DEFERRED, minutes=59), 2, ""),
        (outcome(State.DEFERRED, minutes=60), 2, "tried"),
        (outcome(State.DEFERRED, minutes=239), 9, ""),
        (outcome(State.DEFERRED, minutes=240), 9, "tried"),
        (outcome(State.DEFERRED, minutes=29, seconds=60.0), 1, ""),
        (outcome(State.DEFERRED, minutes=30, seconds=60.0), 1, ""),
        # The login failed, which says nothing of the row.
        (outcome(State.DEFERRED, minutes=1, status=401), 1, "tried"),
        # The clock was set back.
        (outcome(State.DEFERRED, minutes=-600), 1, "tried"),
        (outcome(State.DEFERRED), 1, "tried"),
        (outcome(State.PARTIAL, minutes=29), 1, ""),
        (outcome(State.PARTIAL, minutes=31), 1, "tried"),
        (outcome(State.INVALID), 0, "looked at"),
        (outcome(State.REFUSED, minutes=1), 0, "looked at"),
        (outcome(State.INVALID, key="no key: 64e1f15d24dedf27"), 0, ""),
    ],
)
def test_an_open_row_is_due(row, times, expected):
    found = due_rows([row], NOW, times={row.key: times})
    assert ("tried" if found.tried else "looked at" if found.looked_at else "") == expected


def test_rows_that_may_have_been_mended_are_looked_at_newest_first():
    found = due_rows([outcome(State.INVALID, key) for key in "abc"], NOW)
    assert found.looked_at == ("c", "b", "a")


def test_a_row_whose_recipients_are_suppressed_is_only_looked_at():
    found = due_rows([outcome(State.PLANNED, "a"), outcome(State.PLANNED, "b")], NOW, spared={"a"})
    assert (found.tried, found.looked_at) == (("b",), ("a",))


@pytest.mark.parametrize("state", [State.REFUSED, State.PARTIAL])
def test_in_practice_no_row_is_tried_again_that_only_a_journal_could_judge(state):
    assert due_rows([outcome(state, minutes=999)], NOW, practice=True) == NONE


def test_a_row_that_was_put_off_rests_for_thirty_minutes_then_twice_as_long_up_to_four_hours():
    assert [retry_after(n) / 60 for n in (0, 1, 2, 3, 4, 5, 99)] == [30, 30, 60, 120, 240, 240, 240]


@pytest.mark.parametrize(
    ("every", "failures", "expected"),
    [
        (300, 1, 60),
        (300, 2, 120),
        (300, 7, 3600),
        (300, 99, 3600),
        (10, 1, 10),
        (10, 2, 20),
        (86400, 1, 60),
        (86400, 99, 86400),
    ],
)
def test_after_failures_a_watch_waits_twice_as_long_each_time(every, failures, expected):
    assert backoff(every, failures) == expected
    assert backoff(every, failures, 1.0) == expected * 0.75


# --------------------------------------------------------------------------------------------- sorting


@pytest.mark.parametrize(
    ("known", "due", "going"),
    [
        (None, NONE, True),
        (BEFORE, NONE, False),
        (BEFORE, Due(("a",), ()), False),
        (outcome(State.SENT), NONE, False),
        (outcome(State.IN_DOUBT), NONE, False),
        (outcome(State.SKIPPED), NONE, False),
        (outcome(State.DEFERRED), NONE, False),
        (outcome(State.DEFERRED), Due(("a",), ()), True),
        (outcome(State.INVALID), Due((), ("a",)), True),
    ],
)
def test_a_row_goes_when_it_is_new_or_open_and_due(known, due, going):
    standing = {} if known is None else {"a": known}
    found = sort(rows_of(part("a")), standing, due, most=10)
    assert bool(found.rows) is going
    assert found.new == (("a",) if known is None else ())
    assert found.before == (known == BEFORE)
    assert found.sure is (going and not due.looked_at)


def test_the_row_of_a_later_part_counts():
    found = sort(rows_of(part("a", n=1), part("a", "b", n=2), part("b", n=3)), {}, NONE, most=10)
    assert [(row.key, row.cells["n"]) for row in found.rows] == [("a", 2), ("b", 3)]


def test_two_rows_of_one_key_in_one_part_are_left_to_the_merge_and_the_same_row_twice_is_one():
    found = sort(rows_of([*part("a", n=1), *part("a", n=2)]), {}, NONE, most=10)
    assert len(found.rows) == 2
    assert found.new == ("a",)
    assert len(sort(rows_of(part("a", "a", n=float("nan"))), {}, NONE, most=10).rows) == 1


def test_more_new_rows_than_may_go_wait_and_open_ones_do_not():
    standing, due = {"x": outcome(State.PLANNED, "x")}, Due(("x",), ())
    found = sort(rows_of(part("x", "a", "b", "c")), standing, due, most=2)
    assert [row.key for row in found.rows] == ["x"]
    assert found.waiting == ("a", "b", "c")
    assert not sort(rows_of(part("x", "a", "b")), standing, due, most=2).waiting


def test_what_was_approved_goes_and_what_came_since_counts_anew():
    came = rows_of(part("a", "b", "c", "d", "e", "f"))
    found = sort(came, {}, NONE, approved={"a", "b", "c"}, most=2)
    assert found.new == ("a", "b", "c")
    assert found.waiting == ("d", "e", "f")
    assert not sort(came, {}, NONE, approved={"a", "b", "c", "d"}, most=2).waiting


_STANDINGS = st.sampled_from([None, BEFORE, *State])


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), _STANDINGS, st.booleans()), max_size=6), st.integers(1, 6)
)
def test_no_row_is_lost_and_none_goes_that_is_settled(told, most):
    standing = {k: BEFORE if s == BEFORE else outcome(s, k) for k, s, _ in told if s is not None}
    due = Due(tuple(k for k, s, is_due in told if is_due), ())
    found = sort(rows_of(*(part(k) for k, _, _ in told)), standing, due, most=most)
    going = {row.key for row in found.rows}
    assert len(going) == len(found.rows)
    assert not going & set(found.waiting)
    assert {k for k, _, _ in told if k not in standing} == set(found.new) | set(found.waiting)
    assert going - set(found.new) <= {k for k in standing if standing[k] != BEFORE} & set(due.tried)
