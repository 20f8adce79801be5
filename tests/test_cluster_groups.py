"""Groups over a Dask cluster: mails, report and campaign are those of a merge without one, and nobody is mailed twice."""
# ruff: noqa: F811 - a test asks for a fixture by its name

from __future__ import annotations

import datetime as dt
import itertools
import operator
import os
import pickle
import random
import re
import signal
import time
from collections import Counter

import pandas as pd
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import fresh
from mailservers import until
from scripted import Server
from test_cluster import (  # noqa: F401 - its cluster is used
    QUICK,
    SLOW,
    at,
    client,
    greylisting,
    merge,
    place,
    pytestmark,
    quick,
    raw,
    running,
    sender,
    states,
    went,
    whole,
)

from smtp_notebook import (
    MergeRefusedError,
    PreflightError,
    State,
    Variants,
    cluster,
    suppress,
    times,
    workers,
)
from smtp_notebook.cluster import _Deal
from smtp_notebook.frames import Frame
from smtp_notebook.groups import Grouped, Groups, firsts_of
from smtp_notebook.parcels import Piece, Placed, rowed

LETTER = """Dear {{ Name }},

{{ rows[["Item", "Price"]] }}

{% for row in rows %}{{ loop.index }}. {{ row.Item }} at {{ row.Price }}
{% endfor %}
"""
_BOUNDARY = re.compile(rb"=_[0-9a-f]{32}")


def orders(count=90, people=23):
    """Rows of some people, who order again and again, each one's far from each other."""
    return [
        {
            "Email": f"u{i % people}@{'EXAMPLE' if i % 2 else 'example'}.com",
            "Name": f"N{i % people}",
            "Item": f"item {i}",
            "Price": i + 0.25,
        }
        for i in range(count)
    ]


def as_dicts(rows):
    return rows


def as_pandas(rows):
    """With an index that says something, so that a table shows it."""
    return pd.DataFrame(rows, index=pd.Index([f"r{i}" for i in range(len(rows))], name="order"))


def as_dask(rows):
    """Partitions of several lengths, one of them empty."""
    import dask.dataframe as dd

    made = pd.DataFrame(rows)
    cuts = [0, 7, 7, len(rows) // 2, len(rows)]
    pieces = [made.iloc[a:b] for a, b in itertools.pairwise(cuts)]
    return dd.from_map(lambda piece: piece, pieces, meta=made.iloc[:0])


def fold(frame, server, place, client, **more):
    options = {"template": LETTER, "subject": "{{ rows | length }} for {{ Name }}", "group_by": "Email"}
    return merge(frame, server, place, client, **(options | more))


def texts(server):
    """Return the mails without what is each one's own: its time, its number and its boundary."""
    own = (b"Date:", b"Message-ID:")
    found = (
        b"\n".join(line for line in mail.content.splitlines() if not line.startswith(own))
        for mail in server.log.mails
    )
    return sorted(_BOUNDARY.sub(b"=_", text) for text in found)


def said(report):
    """Return all of a report that does not depend on when it ran, by whom and how."""
    return [
        (o.row, o.key, o.state, o.to, o.reason, o.fix, o.warnings, o.rows, o.marks, o.variant) for o in report
    ]


def recorded(where):
    """Return what a journal has of each row, but for what depends on when it went."""
    with raw(where) as db:
        return db.execute("SELECT key, digest, state, recipients, rows FROM record ORDER BY id").fetchall()


def dry(frame, place, client, **more):
    """Check, and send nothing; no journal is made."""
    with Server() as server:
        return fold(frame, server, place, client, dry_run=True, **more)


# ------------------------------------------------------------------------------------- the same mails


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(as_dicts, marks=SLOW),
        pytest.param(as_pandas, marks=SLOW),
        pytest.param(polars.DataFrame, marks=SLOW, id="polars"),
        pytest.param(pyarrow.Table.from_pylist, marks=SLOW, id="arrow"),
        as_dask,
    ],
)
def test_mails_report_and_journal_are_those_without_a_cluster(client, running, place, postgres, made):
    frame, other = made(orders()), fresh(postgres)
    with Server() as here, Server() as there:
        over = fold(frame, there, place, client)
        alone = fold(frame.compute() if made is as_dask else frame, here, other, None)
    assert texts(there) == texts(here)
    assert len(texts(here)) == 23
    assert said(over) == said(alone)
    assert states(over) == {State.SENT: 23}
    assert recorded(place) == recorded(other)
    told = over.to_frame().drop(columns=["started", "seconds", "message_id", "attempts"])
    wanted = alone.to_frame().drop(columns=["started", "seconds", "message_id", "attempts"])
    pd.testing.assert_frame_equal(told, wanted)
    assert list(told["row"]) == list(range(90))
    until(lambda: not running.scheduler.tasks, 10, "the cluster has forgotten the rows")


def test_a_group_of_more_rows_than_several_parts_is_one_mail_and_the_others_go_beside_it(client, place):
    rows = orders()
    rows[5:5] = [
        {"Email": "big@example.com", "Name": "Big", "Item": f"x{i}", "Price": 1.5} for i in range(1200)
    ]
    with Server() as server:
        report = fold(rows, server, place, client)
        again = fold(rows, server, place, None)
    assert states(report) == {State.SENT: 24}
    assert max(o.rows for o in report) == 1200
    big = next(mail.content for mail in server.log.mails if "big@example.com" in mail.recipients)
    assert b"1200. x1199 at" in big
    assert states(again) == {State.SKIPPED: 24}
    assert not again.warnings


def test_rows_without_a_group_are_problems_of_their_own_and_read_as_without_a_cluster(
    client, place, postgres
):
    rows = orders()
    for position, empty in ((0, None), (30, ""), (31, None), (89, float("nan"))):
        rows[position] = rows[position] | {"Email": empty}
    rows[40]["Name"] = "Another"
    with Server() as server:
        with pytest.raises(PreflightError) as over:
            fold(rows, server, place, client)
        with pytest.raises(PreflightError) as alone:
            fold(rows, server, fresh(postgres), None)
        assert not server.log.mails
        report = fold(rows, server, place, client, on_problem="skip")
    assert str(over.value) == str(alone.value)
    assert said(over.value.report) == said(alone.value.report)
    assert len(over.value.report.failures) == 5
    assert states(report) == {State.INVALID: 5, State.SENT: 22}


@pytest.mark.parametrize(
    "options",
    [
        {"key": "Name", "subject": Variants("A {{ Name }}", "B {{ Name }}"), "on_problem": "skip"},
        pytest.param({"group_by": ["Name", "Email"], "limit": 4}, marks=SLOW),
        pytest.param({"to": "one@example.com"}, marks=SLOW),
        pytest.param({"template": "{{ Item }}"}, marks=SLOW),
        {"send_at": "When", "expires": lambda row: row["rows"]["Until"].max()},
    ],
    ids=",".join,
)
def test_whatever_else_is_asked_for_a_check_says_what_it_says_without_a_cluster(client, place, options):
    moments = [dt.datetime(2990 + i % 20, 1, 1, tzinfo=dt.UTC) for i in range(23)]
    rows = [row | {"When": moments[i % 23], "Until": moments[-1]} for i, row in enumerate(orders())]
    rows[50]["When"] = rows[51]["Email"] = None
    rows[77]["Name"] = "N1"
    over, alone = (dry(as_pandas(rows), place, executor, **options) for executor in (client, None))
    assert said(over) == said(alone)
    assert over.notes == alone.notes
    assert over.waiting == alone.waiting
    pd.testing.assert_frame_equal(over.to_frame(), alone.to_frame())


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=SLOW) for n in range(2, 20))])
def test_frames_of_any_kind_in_parts_of_any_size_are_one_merge(client, place, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(cluster, "_LEAST_PART", chance.randint(1, 12))
    monkeypatch.setattr(cluster, "_PART_ROWS", chance.randint(1, 40))
    rows = orders(chance.randint(1, 80), chance.randint(1, 30))
    chance.shuffle(rows)
    for row in rows:
        if chance.random() < 0.1:
            row |= {chance.choice(list(row)): None}
    made = chance.choice([as_dicts, as_pandas, as_dask]) if len(rows) > 14 else as_pandas
    frame = made(rows)
    over, alone = dry(frame, place, client), dry(frame.compute() if made is as_dask else frame, place, None)
    assert said(over) == said(alone)
    assert len(over) <= len(rows)


# -------------------------------------------------------------------------------------- a campaign


def full(met):
    """Have no room for those behind the ninth, for now."""
    return "452 4.2.2 full" if int(re.search(r"u(\d+)@", met)[1]) >= 9 else None


@pytest.mark.parametrize("begins", ["here", "there"])
def test_a_campaign_goes_on_over_a_cluster_and_without_one_and_mails_nobody_twice(client, place, begins):
    first, second = (None, client) if begins == "here" else (client, None)
    rows = orders()
    more = [*rows, {"Email": "u3@example.com", "Name": "N3", "Item": "late", "Price": 7.5}]
    with Server({"rcpt": full}) as server:
        began = fold(rows, server, place, first, settings={"attempts": 1})
        before = recorded(place)
        server.heal()
        other = fold(more, server, place, second)
        again = fold(more, server, place, first)
    assert states(began) == {State.SENT: 9, State.DEFERRED: 14}
    assert states(other) == {State.SKIPPED: 9, State.SENT: 14}
    assert states(again) == {State.SKIPPED: 23}
    assert set(went(server).values()) == {1}
    assert len(server.log.mails) == 23
    # Only the group that was mailed and has another row by now is told of, by each run.
    for report in (other, again):
        (warned,) = (o for o in report if o.warnings)
        assert (warned.row, warned.key, warned.rows) == (3, "u3@example.com", 4)
        assert warned.warnings == ("sent with 4 rows, now 5; 1 row was in no mail, or changed since",)
        assert any("1 group has other rows" in note for note in report.notes)
    # What was left went as the mail that it was: the same digest, and so the same Message-ID, of the same rows.
    assert [o.message_id for o in other] == [o.message_id for o in began]
    kept = operator.itemgetter(0, 1, 3, 4)
    assert list(map(kept, recorded(place))) == list(map(kept, before))


@SLOW
def test_folding_otherwise_under_one_campaign_is_refused_whoever_does_it(client, place):
    with Server() as server:
        fold(orders(), server, place, None, limit=2)
        with pytest.raises(MergeRefusedError, match="knows its rows by"):
            fold(orders(), server, place, client, group_by=["Email", "Name"])
        with pytest.raises(MergeRefusedError, match="template"):
            fold(orders(), server, place, client, key="Email", group_by=["Email", "Name"])
    assert len(server.log.mails) == 2


# ------------------------------------------------------------------------------------ while it is sent


@pytest.mark.parametrize("tries", [1, pytest.param(2, marks=SLOW)])
def test_what_was_not_kept_is_printed_again_from_its_part(client, place, monkeypatch, tries):
    monkeypatch.setattr(cluster, "KEPT_BYTES", 0)
    with Server({"rcpt": greylisting()} if tries > 1 else None) as server:
        report = fold(as_pandas(orders()), server, place, client)
    assert states(report) == {State.SENT: 23}
    assert {o.attempts for o in report} == {tries}
    assert set(went(server).values()) == {1}


@pytest.mark.parametrize("made", [as_pandas, pytest.param(as_dask, marks=SLOW)])
def test_groups_whose_time_comes_later_go_then(client, place, monkeypatch, made):
    now, began = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC), time.monotonic()
    monkeypatch.setattr(times, "NOW", lambda: now + dt.timedelta(seconds=QUICK * (time.monotonic() - began)))
    late = now + dt.timedelta(seconds=40)
    rows = [row | {"When": late if i % 23 >= 15 else now} for i, row in enumerate(orders())]
    with Server() as server:
        report = fold(made(rows), server, place, client, send_at="When", wait=True)
    assert states(report) == {State.SENT: 23}
    assert time.monotonic() - began > 40 / QUICK
    assert [o.rows for o in report] == [4] * 21 + [3] * 2
    assert set(went(server).values()) == {1}


def test_a_suppressed_group_is_skipped_as_one_and_a_trial_goes_to_me(client, place):
    suppress("u4@example.com")
    with Server() as server:
        report = fold(orders(), server, place, client, test_to="me@example.org", limit=5)
        assert went(server) == {"me@example.org": 5}
        skipped = next(o for o in report if o.state is State.SKIPPED)
        assert report.positions(skipped) == [4, 27, 50, 73]
        report = fold(orders(), server, place, client)
    assert states(report) == {State.SENT: 22, State.SKIPPED: 1}
    assert "u4@example.com" not in went(server)


@SLOW
def test_who_is_suppressed_during_the_run_is_told_of_with_all_rows_of_the_group(client, place):
    def asked(outcome):
        if outcome.row == 0:
            suppress("u22@example.com")

    with Server() as server:
        report = fold(orders(), server, place, client, on_outcome=asked)
    (skipped,) = (o for o in report if o.state is State.SKIPPED)
    assert (skipped.key, skipped.rows, len(skipped.marks)) == ("u22@example.com", 3, 12)
    assert states(report) == {State.SENT: 22, State.SKIPPED: 1}


# -------------------------------------------------------------------------------------- a Dask DataFrame


def test_a_partition_that_is_made_again_with_other_rows_is_refused_and_not_shared_out():
    data = pd.DataFrame(orders(10, 4))
    keys, digest = workers.keyed(data, ("Email",))
    assert keys[:2] == ["u0@example.com", "u1@example.com"]
    places = Groups(firsts_of(keys)).order
    (same,) = workers.dealt(data.copy(), ("Email",), digest, [places])
    assert list(same["Item"]) == [f"item {i}" for i in (0, 4, 8, 1, 5, 9, 2, 6, 3, 7)]
    with pytest.raises(MergeRefusedError, match="came out otherwise"):
        workers.dealt(data.iloc[::-1], ("Email",), digest, [places])


def test_rows_that_lie_in_too_many_partitions_are_refused_before_one_is_looked_at(client, place, monkeypatch):
    monkeypatch.setattr(cluster, "_MOST_SHARES", 3)
    with Server() as server, pytest.raises(MergeRefusedError, match="too many partitions") as caught:
        fold(as_dask(orders()), server, place, client)
    assert "df.shuffle(['Email'])" in caught.value.fix
    assert not server.log.connections


@pytest.mark.parametrize("made", [as_pandas, as_dask])
def test_a_column_that_is_not_there_is_refused_as_without_a_cluster(client, place, made):
    with Server() as server, pytest.raises(MergeRefusedError, match="no column 'Emial' to group by"):
        fold(made(orders(20)), server, place, client, group_by="Emial")
    assert not server.log.connections


# ------------------------------------------------------------------------------------- what is lost


@pytest.mark.parametrize("made", [as_pandas, pytest.param(as_dask, marks=SLOW)])
def test_a_worker_that_is_killed_costs_the_group_that_it_had_at_the_dot(client, running, place, whole, made):
    kill = at("u5@example.com", lambda: os.kill(sender(running), signal.SIGKILL))
    with Server({"dot": kill}) as server:
        report = fold(made(orders()), server, place, client, settings={"max_connections": 1})
        again = fold(made(orders()), server, place, client)
    (doubt,) = (o for o in report if o.state is State.IN_DOUBT)
    assert (doubt.row, doubt.rows) == (5, 4)
    assert report.positions(doubt) == [5, 28, 51, 74]
    assert states(report) == {State.SENT: 22, State.IN_DOUBT: 1}
    assert states(again) == {State.SKIPPED: 22, State.IN_DOUBT: 1}
    assert set(went(server).values()) == {1}


# ---------------------------------------------------------------------------------------------- parts

CELLS = st.one_of(st.integers(0, 3), st.sampled_from(["A@x.example", "a@X.example", "", "b"]), st.none())


def cells_of(rows):
    """Return what each mail would be filled with, by its position."""
    return {
        position: (cells.made_of, str(cells.fault), [tuple(row.items()) for row in cells["rows"]])
        for position, cells in rows.numbered()
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=40), st.integers(1, 50), st.booleans(), st.randoms())
def test_parts_of_any_size_hold_each_group_once_and_whole_at_its_position(keys, size, marked, chance):
    data = [{"k": key, "n": n} for n, key in enumerate(keys)]
    for given_as in (data, pd.DataFrame(data, dtype=object)):
        frame = Frame(given_as)
        all_rows = Grouped(frame, ("k",), marked=marked)
        groups, found = all_rows.groups, {}
        for number, after in groups.runs(size):
            assert after == number + 1 or groups.bounds(after - 1)[1] - groups.bounds(number)[0] <= size
            positions, firsts = groups.folded(number, after)
            piece = pickle.loads(pickle.dumps(Piece(frame.picked(positions), firsts)))
            part = pickle.loads(pickle.dumps(rowed(piece, ("k",), marked=marked)))
            firsts = groups.firsts[number:after].tolist()
            places = dict(zip(firsts, (place for place, _ in part.numbered()), strict=True))
            some = {p: places[p] for p in chance.sample(sorted(places), chance.randint(1, len(places)))}
            batch = Placed(part, some)
            assert cells_of(batch).keys() == some.keys()
            assert all(batch.row(p).made_of == cells.made_of for p, cells in batch.numbered())
            found |= cells_of(Placed(part, places))
        assert repr(found) == repr(cells_of(all_rows))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 50), st.randoms())
def test_partitions_of_any_length_are_shared_out_so_that_no_row_is_lost_or_twice(keys, size, chance):
    data = pd.DataFrame({"k": keys, "n": range(len(keys))})
    cuts = sorted(chance.choices(range(len(keys) + 1), k=chance.randint(0, 5)))
    bounds = itertools.pairwise([0, *cuts, len(keys)])
    partitions = [data.iloc[a:b] for a, b in bounds]
    groups = Grouped(Frame(data), ("k",)).groups
    deal = _Deal([len(p) for p in partitions])
    runs = [groups.folded(number, after) for number, after in groups.runs(size)]
    dealt = [deal.part(*run) for run in runs]
    digests = [workers.keyed(p, ("k",))[1] for p in partitions]
    piles = [
        workers.dealt(p, ("k",), d, places)
        for p, d, places in zip(partitions, digests, deal.places, strict=True)
    ]
    for (positions, firsts), part in zip(runs, dealt, strict=True):
        piece = workers.joined([piles[i][j] for i, j in part.shares], part.order, part.firsts)
        assert list(piece.rows["n"]) == list(positions)
        assert list(piece.firsts) == list(firsts)
    assert Counter(n for run in runs for n in run[0].tolist()) == Counter(range(len(keys)))
    assert deal.count == sum(map(len, deal.places))
