"""Workers and clients of a merge over a cluster are killed: nobody twice, no row lost, and little doubt."""

from __future__ import annotations

import pytest
from kill_cluster import run_seeds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_workers_and_clients_mail_nobody_twice_and_lose_no_row():
    total = run_seeds(20)
    assert (total.duplicates, total.unaccounted, total.too_much_doubt) == (0, 0, 0), total
    # A batch that met none of these would prove nothing.
    assert total.kills >= 40, total
    for victim in ("worker: ", "workers: ", "client: "):
        assert sum(count for where, count in total.stages.items() if where.startswith(victim)) >= 3, total
