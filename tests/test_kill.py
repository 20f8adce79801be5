"""A killed merge: nobody twice, no row lost, and little doubt."""

from __future__ import annotations

import pytest
from kill import run_seeds


@pytest.mark.parametrize(
    ("seeds", "kills"), [(8, 16), pytest.param(20, 40, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
def test_killed_merges_mail_nobody_twice_and_lose_no_row(seeds, kills):
    total = run_seeds(seeds)
    assert (total.duplicates, total.unaccounted, total.too_much_doubt) == (0, 0, 0), total
    # A batch that met none of these would prove nothing.
    assert total.kills >= kills, total
    assert total.late >= 5 * kills, total
    for moment in ("dot", "dot, kept", "drop", "drop, kept", "clock"):
        assert total.stages[moment] >= 1 + (seeds == 20) * 2, total
    assert total.doubt_delivered >= kills // 4, total
    assert total.doubt_undelivered >= kills // 4, total
