"""A killed merge: nobody twice, no row lost, and little doubt."""

from __future__ import annotations

import pytest
from kill import run_seeds


@pytest.mark.timeout(400)
def test_twenty_killed_merges_mail_nobody_twice_and_lose_no_row():
    total = run_seeds(20)
    assert (total.duplicates, total.unaccounted, total.too_much_doubt) == (0, 0, 0), total
    # A batch that met none of these would prove nothing.
    assert total.kills >= 40, total
    assert total.late >= 200, total
    for moment in ("dot", "dot, kept", "drop", "drop, kept", "clock"):
        assert total.stages[moment] >= 3, total
    assert total.doubt_delivered >= 10, total
    assert total.doubt_undelivered >= 10, total
