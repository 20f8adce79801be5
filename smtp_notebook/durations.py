"""How long something takes: as a person writes it, and as people say it."""

from __future__ import annotations

import datetime as dt
import math
import re

from smtp_notebook.outcome import OptionError

__all__ = ["seconds_of", "spoken"]

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?")


def seconds_of(duration: str | float | dt.timedelta, option: str = "min_duration") -> float:
    """Return a duration in seconds.

    Args:
        duration: Seconds as a number, a timedelta, or text such as ``90s``, ``10m``, ``2h`` or ``1h30m``.
        option: What it was given as, for the error.

    Raises:
        OptionError: It is none of these, or negative.
    """
    seconds = math.nan
    if isinstance(duration, dt.timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        found = _DURATION.fullmatch("".join(duration.lower().split()))
        if found and found[0]:
            seconds = sum(float(found[i] or 0) * unit for i, unit in ((1, 3600), (2, 60), (3, 1)))
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        seconds = float(duration)
    if not 0 <= seconds < math.inf:
        raise OptionError(f"{option}: {duration!r} is no duration.", "Write 90s, 10m or 1h30m.")
    return seconds


_TENTHS, _SECONDS, _MINUTES = 10, 120, 7200


def spoken(seconds: float) -> str:
    """Return a duration as people say it: ``3.2 s``, ``45 s``, ``12 min``, ``2 h 5 min``."""
    if seconds < _TENTHS:
        return f"{seconds:.1f} s"
    if seconds < _SECONDS:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if seconds < _MINUTES else f"{minutes // 60} h {minutes % 60} min"
