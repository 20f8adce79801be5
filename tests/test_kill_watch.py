"""A killed watch: no lead twice, nobody forgotten, and little doubt."""

from __future__ import annotations

import os

import pytest
from kill_watch import run_seeds

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="its children are forks")


def test_two_killed_watches_mail_no_lead_twice_and_forget_none():
    total = run_seeds(2, leads=60, polls=8)
    assert not total.broken, total
    assert total.mailed >= 100, total
    # Seeds that met none of these would prove nothing.
    assert total.kills >= 6, total


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_killed_watches_mail_no_lead_twice_and_forget_none():
    total = run_seeds(20)
    assert not total.broken, total
    assert total.kills >= 60, total
    for moment in (
        "begin",
        "read",
        "planned",
        "moved",
        "telling",
        "dot",
        "dot, kept",
        "drop",
        "drop, kept",
        "clock",
    ):
        assert total.stages[moment] >= 3, total
    assert total.doubt_delivered >= 10, total
    assert total.doubt_undelivered >= 10, total
