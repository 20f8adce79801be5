"""DKIM signatures (RFC 6376): who signs, with which key, and the header that a mail gets for it.

`Dkim` is a setting: it names the file of a key and never holds the key. A `Signer` holds it, in memory alone. Mails are
signed over the very octets that leave, relaxed in head and body, so that a relay may fold a line or trim a blank.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from smtp_notebook.outcome import SettingsError

__all__ = ["Dkim", "Signer", "dkims", "signer_of"]

#: What is signed of the head, in this order, where the mail has it (RFC 6376, 5.4.1). From stands twice, so that no
#: second one can be added (5.4.2). The two names for unsubscribing have to be signed (RFC 8058, 4).
HEADERS = (
    b"from", b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id", b"mime-version", b"content-type",
    b"content-transfer-encoding", b"in-reply-to", b"references", b"list-unsubscribe", b"list-unsubscribe-post",
    b"list-id", b"feedback-id",
)  # fmt: skip
#: RFC 8301, 3.2: who signs uses 1024 bits at least, who verifies may stop at 4096.
_LEAST_BITS, _MOST_BITS = 1024, 4096
#: A signature header has fewer octets: 684 of a signature, 44 of a hash, the names, and up to 320 of domain and selector.
ROOM = 1_500
_DOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+"
)
_SELECTOR = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,62})*"
)
_ED25519_OCTETS = 32
_BLANKS = re.compile(rb"[ \t]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_NEXT_HEADER = re.compile(rb"\r\n(?![ \t])")
_TRAILING = re.compile(rb"[ \t]+(?=\r\n)")
_LINE = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Dkim:
    """Who signs mails, and the file of the key. Frozen; it never holds the key itself.

    Attributes:
        domain: The signing domain (d=): the From's own, or one above it, which DMARC asks for.
        selector: The name of the key in the domain's DNS: its record stands at ``selector._domainkey.domain``.
        key_file: The path of the private key: PEM, RSA of 1024 to 4096 bits (2048 is usual) or Ed25519 (RFC 8463). It is
            read when a server is named or a mail is to be sent, and kept in memory until then.

    Raises:
        SettingsError: The domain or the selector is none.
    """

    domain: str
    selector: str
    key_file: str

    def __post_init__(self) -> None:
        domain = str(self.domain).strip().strip(".").lower()
        if not domain.isascii():
            try:
                domain = domain.encode("idna").decode("ascii")
            except UnicodeError:
                domain = ""
        if not _DOMAIN.fullmatch(domain):
            raise SettingsError(f"dkim: {str(self.domain)[:80]!r} is no domain.", "Write example.com.")
        if not _SELECTOR.fullmatch(str(self.selector)):
            raise SettingsError(
                f"dkim: {str(self.selector)[:80]!r} is no selector.", "Write a word such as s1."
            )
        path = str(self.key_file)
        if "-----BEGIN" in path or "\n" in path:
            # Nothing of it is repeated here: it may be the key.
            raise SettingsError("dkim: key_file= is no path.", "Save the key in a file, and name that file.")
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "selector", str(self.selector))
        object.__setattr__(self, "key_file", path)

    @property
    def name(self) -> str:
        """Where its public key stands in the DNS, as a TXT record."""
        return f"{self.selector}._domainkey.{self.domain}"

    def record(self) -> str:
        """Return the TXT record to publish at `name`; it has the public key alone (RFC 6376, 3.6.1; RFC 8463, 3).

        Raises:
            SettingsError: The key cannot be read; see `Connection`.
        """
        kind, public = _public(_key(self))
        return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode('ascii')}"


def dkims(given: Any) -> tuple[Dkim, ...]:
    """Return what ``dkim=`` was given: one, several, or such as a saved connection has them.

    Raises:
        SettingsError: It is something else.
    """
    items = [given] if isinstance(given, Dkim | Mapping) else list(given or ())
    return tuple(_dkim(item) for item in items)


def _dkim(item: Any) -> Dkim:
    if isinstance(item, Dkim):
        return item
    if isinstance(item, Mapping) and item.keys() == {"domain", "selector", "key_file"}:
        return Dkim(**item)
    cause = f"dkim: this is of type {type(item).__name__}, not a Dkim."
    raise SettingsError(cause, 'Give Dkim(domain="example.com", selector="s1", key_file="dkim.pem").')


# ------------------------------------------------------------------------------------------- the key


def _key(settings: Dkim) -> Any:
    """Return the private key.

    Raises:
        SettingsError: The package that signs is missing, or the file holds no key that does.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    except ImportError:
        cause = "DKIM signatures need the package cryptography, which is not installed."
        raise SettingsError(cause, 'Install it: pip install "smtp_notebook[dkim]".') from None
    try:
        content = Path(settings.key_file).expanduser().read_bytes()
    except OSError as error:
        _refuse(settings, f"cannot be read: {error.strerror or 'no such file'}")
    try:
        key = _parsed(content)
    except TypeError:
        _refuse(settings, "is encrypted, and nobody can be asked for its password later")
    except Exception:  # noqa: BLE001 - whatever the parser says may quote the file
        _refuse(settings, "holds no private key in PEM")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if not isinstance(key, rsa.RSAPrivateKey):
        _refuse(settings, "holds a key that is neither RSA nor Ed25519")
    if not _LEAST_BITS <= key.key_size <= _MOST_BITS:
        _refuse(
            settings, f"holds an RSA key of {key.key_size:,} bits; 1,024 to 4,096 are allowed (RFC 8301, 3.2)"
        )
    return key


@functools.lru_cache(maxsize=8)
def _parsed(content: bytes) -> Any:
    """Return the private key of a file; checking one of RSA takes 40 ms, so that is done once for many single mails."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    raw = _raw_ed25519(content)
    if raw is not None:
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw)
    return serialization.load_pem_private_key(content, password=None)


def _refuse(settings: Dkim, why: str) -> NoReturn:
    raise SettingsError(
        f"The DKIM key {settings.key_file!r} {why}.",
        "Make one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out dkim.pem.",
    ) from None


def _raw_ed25519(content: bytes) -> bytes | None:
    """Return a seed in base64, as dkimpy's ``dknewkey`` writes it; None for everything else."""
    try:
        raw = base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == _ED25519_OCTETS else None


def _public(key: Any) -> tuple[str, bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    encoding, form = serialization.Encoding, serialization.PublicFormat
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa", key.public_key().public_bytes(encoding.DER, form.SubjectPublicKeyInfo)
    return "ed25519", key.public_key().public_bytes(encoding.Raw, form.Raw)


def _algorithm(key: Any) -> tuple[bytes, Callable[[bytes], bytes]]:
    """Return an algorithm's name (a=), and what signs by it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        return b"rsa-sha256", lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    # RFC 8463, 3: the hash is what is signed.
    return b"ed25519-sha256", lambda data: key.sign(hashlib.sha256(data).digest())


# -------------------------------------------------------------------------------------- the signature


class Signer:
    """Signs mails; it holds keys, and shows them nowhere.

    Measured on one core: 3,400 mails of 9 kB a second with RSA of 2048 bits, 650 with 4096, 13,800 with Ed25519; 390
    mails of 1 MB.

    Args:
        settings: Who signs; each makes a signature of its own (RFC 8463, 5, recommends both algorithms).

    Raises:
        SettingsError: A key cannot be read or does not do, or the package that signs is missing.
    """

    __slots__ = ("_keys",)

    def __init__(self, settings: Iterable[Dkim]) -> None:
        self._keys = [(each, *_algorithm(_key(each))) for each in settings]

    def __repr__(self) -> str:
        return f"<Signer for {', '.join(each.domain for each, *_ in self._keys)}>"

    def __reduce__(self) -> NoReturn:
        msg = "a Signer holds keys, and is never copied or saved"
        raise TypeError(msg)

    def sign(self, chunks: Sequence[bytes], moment: dt.datetime) -> bytes:
        """Return the header lines to put before a mail: the same for the same mail and moment.

        Args:
            chunks: The mail's octets: CRLF lines, the last one ended.
            moment: When it was signed (t=), in whole seconds.
        """
        head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
        fields = _fields(head)
        signed = [name for name in HEADERS if name in fields]
        digest = base64.b64encode(hashlib.sha256(relaxed_body(body)).digest())
        out: list[bytes] = []
        for settings, algorithm, seal in self._keys:
            start = _header(settings, algorithm, int(moment.timestamp()), signed, digest)
            # A name that stands more often than the header adds nothing (RFC 6376, 5.4.2).
            lines = [fields[name] for name in dict.fromkeys(signed)]
            lines.append(relaxed_header(b"DKIM-Signature", start.partition(b":")[2]))
            found = base64.b64encode(seal(b"\r\n".join(lines)))
            pieces = [found[i : i + _LINE] for i in range(0, len(found), _LINE)]
            out.append(start + b"\r\n ".join(pieces) + b"\r\n")
        return b"".join(out)


def signer_of(settings: Sequence[Dkim]) -> Signer | None:
    """Return what signs, or None where nobody does; see `Signer`."""
    return Signer(settings) if settings else None


def _header(settings: Dkim, algorithm: bytes, moment: int, signed: Iterable[bytes], digest: bytes) -> bytes:
    """Return the signature's header up to ``b=``, folded (RFC 6376, 3.5)."""
    lines = [b"DKIM-Signature: v=1; a=%s; c=relaxed/relaxed; t=%d;" % (algorithm, moment)]
    lines += [b" d=%s;" % settings.domain.encode(), b" s=%s;" % settings.selector.encode()]
    names = b" h="
    for name in signed:
        if len(names) + len(name) > _LINE:
            lines.append(names)
            names = b"  "
        names += name + b":"
    lines += [names[:-1] + b";", b" bh=%s;" % digest, b" b="]
    return b"\r\n".join(lines)


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Return each header by its name in lower case, relaxed; the last one where a name stands several times."""
    found: dict[bytes, bytes] = {}
    for line in _NEXT_HEADER.split(head):
        name, _, value = line.partition(b":")
        found[name.strip().lower()] = relaxed_header(name, value)
    return found


def relaxed_header(name: bytes, value: bytes) -> bytes:
    """Return a header as it is hashed, without its line end (RFC 6376, 3.4.2)."""
    return name.strip().lower() + b":" + _BLANKS.sub(b" ", _FOLD.sub(b"", value)).strip(b" \t")


def relaxed_body(body: bytes) -> bytes:
    """Return a body as it is hashed (RFC 6376, 3.4.4): blanks made one, none at an end, no empty lines at the end.

    Its last line is ended, and there is no CR or LF by itself.
    """
    if b"  " in body or b"\t" in body:
        body = _BLANKS.sub(b" ", body)
    if b" \r\n" in body:
        body = _TRAILING.sub(b"", body)
    body = body.rstrip(b"\r\n")
    return body + b"\r\n" if body else b""
