"""A killed merge: nobody twice, no row lost, and little doubt."""

from __future__ import annotations

import pytest
from kill import run_seeds


@pytest.mark.timeout(400)
def test_twenty_killed_merges_mail_nobody_twice_and_lose_no_row():
    total = run_seeds(20)
    assert (total.duplicates, total.unaccounted, total.too_much_doubt) == (0, 0, 0), total
    assert total.kills >= 30, "the seeds hardly killed anything"
    assert total.doubt_delivered >= 3, total
    assert total.doubt_undelivered >= 3, total
