"""Several texts for one field of a template, of which each row of a campaign gets one. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from string import ascii_uppercase
from typing import Any

from smtp_notebook.outcome import OptionError

__all__ = ["Variants", "chosen"]

_LEAST = 2
_BITS = 64
_FIX = 'Write Variants("First subject", "Second subject"), or Variants(short="…", long="…").'


class Variants(Mapping[str, str]):
    """Several texts for one field, such as two subjects; each row of a merge gets one of them.

    Which one is a pure function of the campaign's name and the row's key: a retry, a resumed merge, another machine and
    another order of the rows choose the same. The Outcome says which, and `Report.by_variant` counts. Other texts,
    names or shares under one campaign are another template.

    Args:
        *texts: The texts, templates each; they are called A, B, C and so on. Or one mapping of names to texts.
        shares: How much of the rows each text gets, as weights in the order of the texts: ``(1, 3)`` gives the second
            one three of four. Equal by default.
        **named: Texts by names of your own.

    Raises:
        OptionError: Fewer than two texts, one that is no text, or shares that are no weights.

    >>> Variants("Your order", "It is on its way").names
    ('A', 'B')
    """

    def __init__(
        self,
        *texts: str | Mapping[str, str],
        shares: Sequence[float] | None = None,
        **named: str,
    ) -> None:
        self._texts = _named(texts, named)
        self.shares = _shares(shares, len(self._texts))

    @property
    def names(self) -> tuple[str, ...]:
        """What the texts are called, in their order."""
        return tuple(self._texts)

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variants):
            return NotImplemented
        return (list(self.items()), self.shares) == (list(other.items()), other.shares)

    def __hash__(self) -> int:
        return hash((tuple(self.items()), self.shares))

    def __repr__(self) -> str:
        plain = self.names == tuple(ascii_uppercase[: len(self)])
        said = ", ".join(map(repr, self._texts.values())) if plain else repr(self._texts)
        equal = len(set(self.shares)) == 1
        return f"Variants({said})" if equal else f"Variants({said}, shares={self.shares!r})"

    def choose(self, campaign: str, key: str) -> str:
        """Return the name of the text that a row of a campaign gets."""
        return chosen(self.names, self.shares, campaign, key)


def chosen(names: Sequence[str], shares: Sequence[float], campaign: str, key: str) -> str:
    """Return the name that a row of a campaign gets, by a hash of both: the same in every process."""
    said = f"{len(campaign)}\x1f{campaign}\x1f{key}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(said, digest_size=_BITS // 8, person=b"variant").digest(), "big")
    place = number / 2**_BITS * math.fsum(shares)
    for name, end in zip(names, accumulate(shares), strict=True):
        if place < end:
            return name
    return next(n for n, s in zip(reversed(names), reversed(shares), strict=True) if s)


def _named(texts: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, str]:
    if len(texts) == 1 and isinstance(texts[0], Mapping):
        found = {**texts[0], **named}
    elif texts and named:
        raise OptionError("Variants: some of the texts have a name and others have none.", _FIX)
    elif len(texts) > len(ascii_uppercase):
        raise OptionError(f"Variants: {len(texts)} texts are more than there are letters.", "Name them.")
    else:
        found = dict(zip(ascii_uppercase, texts, strict=False)) if texts else dict(named)
    if len(found) < _LEAST:
        raise OptionError(f"Variants: {len(found)} text is nothing to choose from.", _FIX)
    for name, text in found.items():
        if not isinstance(text, str):
            raise OptionError(f"Variants: {name!r} is a {type(text).__name__}, not text.", _FIX)
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise OptionError(f"Variants: {name!r} is no name.", _FIX)
    return found


def _shares(given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if given is None:
        return (1.0,) * count
    fix = "Give one number for each text, such as shares=(0.9, 0.1)."
    try:
        shares = tuple(float(share) for share in given)
    except (TypeError, ValueError):
        raise OptionError(f"Variants: shares={given!r} are no weights.", fix) from None
    if len(shares) != count:
        raise OptionError(f"Variants: {len(shares)} shares for {count} texts.", fix)
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not math.fsum(shares):
        raise OptionError(f"Variants: shares={given!r} are no weights.", fix)
    return shares
