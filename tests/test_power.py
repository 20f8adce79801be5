"""A power failure at any moment of a merge: nothing that went is ever due again, and little is in doubt."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from kill import merge
from power import traced_merge
from scripted import Server

from smtp_notebook import State, preflight, sqlite_store

ROWS = 400
IN_DOUBT_AT_MOST = preflight.WINDOW
EVERYONE = {f"u{i}@example.com" for i in range(ROWS)}


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    """Every moment of one merge at which the power could fail and make a difference."""
    with Server() as server:
        found = traced_merge(server, tmp_path_factory.mktemp("traced"), ROWS)
        assert Counter(m.recipients[0] for m in server.log.mails) == dict.fromkeys(EVERYONE, 1)
    assert found[-1].dots == EVERYONE
    return found


def test_the_journal_is_synced_a_window_at_a_time(cuts):
    between = [len(after.dots - before.dots) for before, after in itertools.pairwise(cuts)]
    assert max(between) <= IN_DOUBT_AT_MOST
    assert len(cuts) < ROWS / 4, "a sync for each row would cost most of the speed"


# What was not synced is lost, or torn somewhere, or all there.
@pytest.mark.parametrize("chance", [0.0, 0.98, 1.0])
def test_after_a_power_failure_nothing_that_went_is_due_again(cuts, chance, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "boot_id", lambda: "another boot")
    dice = random.Random(1)
    for number, cut in enumerate(cuts):
        folder = tmp_path / str(number)
        folder.mkdir()
        cut.restore(folder, lambda: dice.random() < chance)
        with Server() as server:
            report = merge(server.url(), folder / "journal.sqlite3", ROWS)
        again = [m.recipients[0] for m in server.log.mails]
        doubts = {o.key for o in report if o.state is State.IN_DOUBT}
        assert not cut.dots & set(again), f"cut {number}: mailed twice"
        assert len(again) == len(set(again))
        assert cut.dots | set(again) | doubts == EVERYONE, f"cut {number}: lost"
        assert len(doubts) <= IN_DOUBT_AT_MOST, f"cut {number}"
