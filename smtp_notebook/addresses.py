"""One mailbox as a value, and the few ways a person writes several in one line.

Syntax is judged by email-validator (RFC 5321, 5322, 6531); what it refuses only because no public mail
server has that domain (``.test``, ``localhost``, an intranet) is accepted, for a relay may serve it.
Every function takes time linear in its input.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from smtp_notebook.outcome import AddressError

__all__ = [
    "CONTROL",
    "Address",
    "make_address",
    "parse_addresses",
    "plain_wire",
    "shortened",
    "split_addresses",
    "split_mailbox",
]

#: What no header may hold: C0 and C1 controls, DEL, line and paragraph separators, lone surrogates.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a0-\U0010ffff -]+")
_PLAIN_SPEC = re.compile(
    r"([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)@((?:[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\.)+[A-Za-z]{2,})"
)
_LONGEST_LABEL = 63
_LONGEST_MAILBOX = 1200
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255
# email-validator has a list of domains that never get public mail. A name below one that may is judged by
# its syntax alone.
_JUDGED_BELOW = ".co"
_ALL_DIGITS = re.compile(r"(?:^|\.)[0-9]+$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def shortened(text: str, length: int = 60) -> str:
    """Return *text* as a quoted literal of at most *length* characters, for an error message."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox: an addr-spec and a display name.

    Args:
        addr_spec: ``local@domain`` as a person writes it, such as ``jörg@exämple.test``.
        display_name: Any printable text, or ""; runs of blanks become one.

    Raises:
        AddressError: Not an address, or a control character in either.
    """

    addr_spec: str
    display_name: str = ""

    def __post_init__(self) -> None:
        for value in (self.addr_spec, self.display_name):
            if not isinstance(value, str):
                cause = f"{shortened(str(value))} is no e-mail address: it is of type {type(value).__name__}."
                raise AddressError(cause, "Give text, or leave it out.")
        # RFC 5322, 3.2.2: a run of blanks in a phrase means one.
        name = re.sub(" {2,}", " ", self.display_name.strip())
        for text in (self.addr_spec, name):
            _refuse_control(text)
        if len(name) > _LONGEST_MAILBOX:
            cause = f"The display name {shortened(name)} is longer than {_LONGEST_MAILBOX} characters."
            raise AddressError(cause, "Shorten it.")
        object.__setattr__(self, "display_name", name)
        object.__setattr__(self, "addr_spec", _validated(self.addr_spec.strip())[0])

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the one mailbox in *text*: ``ann@example.com`` or ``Ann Smith <ann@example.com>``.

        Raises:
            AddressError: None, or more than one.
        """
        _refuse_control(text)
        pieces = split_addresses(text)
        if len(pieces) > 1:
            raise AddressError(
                f"{shortened(text)} is more than one address.",
                "Give one, or put a name with a comma in quotes.",
            )
        if not pieces:
            raise AddressError("The address is empty.", "Fill it in.")
        name, spec = split_mailbox(pieces[0])
        return cls(spec, name)

    @property
    def wire(self) -> str:
        """What the envelope gets: the local part unchanged, the domain as a lower-case A-label."""
        return _validated(self.addr_spec)[1]

    @property
    def local(self) -> str:
        """What stands before the last @."""
        return self.addr_spec.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """What stands after the last @, as written."""
        return self.addr_spec.rpartition("@")[2]

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the local part is not ASCII, so that only an SMTPUTF8 server can take it (RFC 6531)."""
        return not self.local.isascii()

    def __str__(self) -> str:
        if not self.display_name:
            return self.addr_spec
        return f"{_quoted(self.display_name)} <{self.addr_spec}>"


def make_address(addr_spec: str, display_name: str = "") -> Address:
    """Return an Address from its two parts; see there."""
    return Address(addr_spec, display_name)


def wire_of(text: str) -> str:
    """Return an address as the envelope gets it; "" where there is none.

    Raises:
        AddressError: It is none.
    """
    return Address.parse(text).wire if text else ""


def _quoted(name: str) -> str:
    if _ATOMS.fullmatch(name) and "  " not in name:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _refuse_control(text: str) -> None:
    if found := CONTROL.search(text):
        kind = "a line break" if found[0] in "\r\n" else f"the control character U+{ord(found[0]):04X}"
        raise AddressError(
            f"The address {shortened(text)} has {kind} in it.",
            "Remove it: a line break could add recipients.",
        )


def plain_wire(spec: str) -> str | None:
    """Return the wire form of an addr-spec that is beyond doubt, or None for one that has to be judged.

    Beyond doubt is less than what is valid: letters, digits and a few signs, a name of labels below a
    top-level domain of letters. Lengths leave room for what `_judged` may append.
    """
    found = _PLAIN_SPEC.fullmatch(spec)
    if found is None:
        return None
    local, domain = found.groups()
    if len(local) > _LONGEST_LOCAL or len(domain) > _LONGEST_LABEL:
        return None
    if local.isalpha() and not local.islower():
        return None  # the validator writes some names small, such as Postmaster
    return spec if domain.islower() else f"{local}@{domain.lower()}"


def _validated(spec: str) -> tuple[str, str]:
    """Return the normalised addr-spec and its wire form."""
    plain = plain_wire(spec)
    return (plain, plain) if plain is not None else _examined(spec)


@functools.lru_cache(maxsize=8192)
def _examined(spec: str) -> tuple[str, str]:
    if len(spec) > _LONGEST_LOCAL + _LONGEST_DOMAIN + 1:
        raise _refusal(spec, "it is longer than any address can be")
    _, at, domain = spec.rpartition("@")
    if not at:
        raise _refusal(spec, "it has no @")
    if not domain:
        raise _refusal(spec, "nothing stands after the @")
    if _ALL_DIGITS.search(domain):
        # RFC 3696, 2: no top-level domain is all digits, so this is an IP address without its brackets.
        raise _refusal(
            spec, "its domain ends in a number", "Write an IP address in brackets: name@[192.0.2.1]."
        )
    found = _judged(spec, domain)
    if len(found.local_part.encode()) > _LONGEST_LOCAL:
        raise _refusal(spec, f"what stands before the @ is longer than {_LONGEST_LOCAL} octets")
    # RFC 5321, 4.1.3 writes "IPv6:" so; not every server takes it in another case.
    wire = found.ascii_domain if domain.startswith("[") else found.ascii_domain.lower()
    return f"{found.local_part}@{found.domain}", f"{found.local_part}@{wire}"


@dataclass(frozen=True, slots=True)
class _Judged:
    local_part: str
    domain: str
    ascii_domain: str


def _judged(spec: str, domain: str) -> _Judged:
    """Return the parts of an addr-spec that is one; special-use domains are judged by their syntax alone."""
    from email_validator import EmailNotValidError, validate_email

    first: EmailNotValidError | None = None
    for suffix in ("",) if domain.startswith("[") else ("", _JUDGED_BELOW):
        try:
            found = validate_email(
                spec + suffix,
                allow_smtputf8=True,
                allow_quoted_local=True,
                allow_domain_literal=True,
                check_deliverability=False,
                globally_deliverable=False,
                strict=True,
            )
        except EmailNotValidError as error:
            # That a domain is reserved is no reason; what else is wrong is the second verdict.
            if first is None or "special-use" in str(first):
                first = error
        else:
            return _Judged(
                found.local_part, found.domain.removesuffix(suffix), found.ascii_domain.removesuffix(suffix)
            )
    text = str(first)
    raise _refusal(spec, text[:1].lower() + text[1:].rstrip(".")) from None


def _refusal(spec: str, why: str, fix: str = "Write it as name@example.com.") -> AddressError:
    return AddressError(f"{shortened(spec)} is no e-mail address: {why}.", fix)


# ------------------------------------------------------------------------------------- several in one


def split_addresses(text: str) -> list[str]:
    """Split at semicolons and commas that stand outside quotes and angle brackets; drop empty pieces."""
    pieces: list[str] = []
    start = 0
    quoted = angled = escaped = False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "<>":
            angled = character == "<"
        elif character in ";," and not angled:
            pieces.append(text[start:position])
            start = position + 1
    pieces.append(text[start:])
    return [stripped for piece in pieces if (stripped := piece.strip())]


def split_mailbox(text: str) -> tuple[str, str]:
    """Split ``Name <spec>`` into the name, its quotes undone, and the spec; or ``spec`` into "" and it."""
    text = text.strip()
    if not text.endswith(">"):
        return "", text
    name, bracket, spec = text[:-1].rpartition("<")
    if not bracket:
        return "", text
    return _unquoted(name.strip()), spec.strip()


def _unquoted(name: str) -> str:
    found = _QUOTED.fullmatch(name)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else name


def parse_addresses(value: str | Address | Iterable[str | Address] | None) -> tuple[Address, ...]:
    """Return the addresses of a string (separated by semicolons or commas), a list, or None.

    Raises:
        AddressError: One of them is none.
    """
    if value is None:
        return ()
    if isinstance(value, Address):
        return (value,)
    if isinstance(value, str):
        _refuse_control(value)
        return tuple(Address(*reversed(split_mailbox(piece))) for piece in split_addresses(value))
    if not isinstance(value, Iterable):
        raise AddressError(
            f"{shortened(str(value))} is no e-mail address: it is of type {type(value).__name__}.",
            "Give text, or a list of texts.",
        )
    found: list[Address] = []
    for item in value:
        if not isinstance(item, str | Address):
            raise AddressError(
                f"{shortened(str(item))} is no e-mail address: it is of type {type(item).__name__}.",
                "Fill it in, or leave it out.",
            )
        found += [item] if isinstance(item, Address) else parse_addresses(item)
    return tuple(found)
