"""What `fuzz` tries for an hour, tried for seconds: the same inputs each time, and all that was found before."""

from __future__ import annotations

import pytest
from fuzz import EXAMPLES, TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_must_hold_of_any_input_holds(target):
    target.run(EXAMPLES[target.name])
