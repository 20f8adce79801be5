"""What is said to log in with an OAuth token: XOAUTH2 (Google's) and OAUTHBEARER (RFC 7628). Pure.

The standard one is chosen where both are offered, as curl does: it names the host and port that the token is for.
Gmail and Yahoo offer both, Microsoft XOAUTH2 alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection

__all__ = ["GIVE_UP", "chosen", "forms", "objection", "response"]

_ORDER = ("oauthbearer", "xoauth2")
#: What answers the challenge that explains a refusal: RFC 7628, 3.2.3, and Google's empty line.
GIVE_UP = {"oauthbearer": b"AQ==", "xoauth2": b""}
_TOLD = ("status", "error", "scope", "schemes")


def chosen(offered: Collection[str]) -> str:
    """Return the mechanism for a token among those that a server offers, in lower case; "" when there is none."""
    return next((name for name in _ORDER if name in offered), "")


def response(mechanism: str, user: str, token: str, host: str, port: int) -> bytes:
    """Return the initial response, in base64."""
    if mechanism == "oauthbearer":
        # RFC 5801, 4: the user is a saslname, in which two characters are written otherwise.
        name = user.replace("=", "=3D").replace(",", "=2C")
        text = f"n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01"
    else:
        text = f"user={user}\x01auth=Bearer {token}\x01\x01"
    return base64.b64encode(text.encode())


def forms(user: str, token: str, host: str, port: int) -> tuple[str, ...]:
    """Return every text that holds the token as it travels: what has to be struck out of a server's answer."""
    return (*(response(m, user, token, host, port).decode() for m in _ORDER), token)


def objection(challenge: str) -> str:
    """Return what a server says of a token in its challenge, in words; "" when it is no JSON object (RFC 7628, 3.2.2)."""
    try:
        found = json.loads(base64.b64decode(challenge.strip(), validate=True))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    said = ((name, found.get(name)) for name in _TOLD)
    return ", ".join(
        f"{name} {_short(value)}" for name, value in said if isinstance(value, str | int) and value != ""
    )


def _short(value: object) -> str:
    flat = "".join(c if c.isprintable() else " " for c in str(value))
    return flat if len(flat) <= 100 else f"{flat[:99]}…"  # noqa: PLR2004 - an address fits
