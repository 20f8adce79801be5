"""Warnings about how a mail will look and arrive. Pure: a Message in, Findings out; nothing is changed or fetched.

Each rule names its source where it stands; what the mail programs do not understand is in `support`.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from smtp_notebook import support
from smtp_notebook.attachments import Attachment
from smtp_notebook.connection import Connection
from smtp_notebook.fields import one_click
from smtp_notebook.message import Message
from smtp_notebook.page import LEFT, Image, Page, Places, read
from smtp_notebook.support import OUTLOOK, Feature

__all__ = ["Finding", "alignment", "lint", "open_link", "personal", "reveals", "shared_link"]

#: Gmail shows about so many bytes of HTML and hides the rest behind a link. Google says nothing of it; measured by
#: many: https://github.com/hteumeuleu/email-bugs/issues/41
CLIP = 102 * 1024
#: Gmail keeps so many bytes of style sheets: https://github.com/hteumeuleu/email-bugs/issues/90
SHEET = 16 * 1024
#: RFC 5322, 2.1.1: lines should be no longer; many lists of mails show even less of a subject.
SUBJECT = 78
#: How wide the default letter is, in CSS pixels, as is most HTML mail.
LETTER = 600
_NAMED = 3
_MOST = 5
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person may want to change.

    Attributes:
        code: A short word that stays the same from version to version, such as ``html-clipped``.
        text: One sentence: what it is, and where.
        clients: The mail programs that it concerns, separated by commas; "" for all.
        fix: One sentence: what to do.
        level: ``warning``, or ``info`` for what may well be right as it is.
    """

    code: str
    text: str
    clients: str
    fix: str
    level: Literal["warning", "info"] = "warning"

    def __str__(self) -> str:
        where = f" ({self.clients})" if self.clients else ""
        return f"{self.code}: {self.text.removesuffix('.')}{where}. {self.fix}"


def lint(message: Message, *, login: str = "", via: Connection | None = None) -> tuple[Finding, ...]:
    """Return what may look wrong or arrive badly, in a fixed order; an empty tuple when nothing was found.

    Time is linear in the mail: about a millisecond for 5 kB of HTML.

    Args:
        message: The mail; it needs neither sender nor recipients.
        login: Who logs in at the server; its domain is compared with the From address where both have one.
        via: By which connection it goes, whose user stands in for *login*.
    """
    login = via.user if via is not None else login
    sender = message.from_.wire.rpartition("@")[2] if message.from_ else ""
    page = read(message.html or "")
    return (
        *_subject(message),
        *personal(message),
        *_sender(message, login),
        *(alignment(sender, via) if via is not None and sender else ()),
        *_bulk(message, page),
        *_leftovers(message, page),
        *_parts(message, page),
        *_size(message, page),
        *_images(message, page),
        *_links(page),
        *_features("html-unsupported", "does not work", page.elements),
        *_features("css-unsupported", "has no effect", page.styles),
    )


# ------------------------------------------------------------------------------------------- the words


_ONE_OR_MORE = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")


def _said(number: int, words: str) -> str:
    """Return a number with words that have ``[one|several]`` where they depend on it."""
    return f"{number:,} " + _ONE_OR_MORE.sub(r"\1" if number == 1 else r"\2", words)


def _shown(text: str) -> str:
    """Return text from a mail as it may stand in a sentence: one line, not too long."""
    flat = " ".join(text[: 4 * _LONGEST].split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


def _few(names: Iterable[str]) -> str:
    """Return the first distinct names in brackets, with an ellipsis for more; "" without any."""
    found = list(dict.fromkeys(filter(None, map(_shown, names))))
    more = ", …" if len(found) > _NAMED else ""
    return f" ({', '.join(found[:_NAMED])}{more})" if found else ""


# ------------------------------------------------------------------------------------ head and sender


def _subject(message: Message) -> Iterator[Finding]:
    length = len(message.subject)
    if not message.subject.strip():
        yield Finding("subject-missing", "The mail has no subject.", "", "Give subject=.")
    elif length > SUBJECT:
        text = f"The subject has {length:,} characters; most lists of mails show fewer than {SUBJECT}."
        yield Finding("subject-long", text, "", "Shorten it, or begin with what matters.")


def _sender(message: Message, login: str) -> Iterator[Finding]:
    """Compare domains as DMARC's relaxed alignment does: one may lie in the other (RFC 7489, 3.1)."""
    theirs = _host(login.rpartition("@")[2]) if "@" in login else ""
    ours = _host(message.from_.wire.rpartition("@")[2]) if message.from_ else ""
    if "." in theirs and ours and not _related(theirs, ours):
        text = f"The mail is from {_shown(ours)}, but the login belongs to {_shown(theirs)}: it may be refused, rewritten or taken for forged."
        fix = "Send from an address of the login's domain, and name yours in reply_to=, or use your domain's own server."
        yield Finding("from-domain", text, "", fix)


#: Who gives mailboxes to everybody, and the hosts by which their mail goes: their DMARC policies, and those of who
#: receives, have mail with such a From from anywhere else refused or taken for spam. Gmail:
#: https://support.google.com/a/answer/81126 ("Don't impersonate Gmail From: headers"). Yahoo and AOL publish p=reject:
#: https://senders.yahooinc.com/faqs/
_PROVIDERS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"(?:gmail|googlemail)\.com"), ("google.com", "gmail.com", "googlemail.com")),
    (
        re.compile(r"yahoo\.[a-z]{2,3}(?:\.[a-z]{2})?|ymail\.com|rocketmail\.com|aol\.com"),
        ("yahoo.com", "yahoodns.net", "aol.com"),
    ),
    (
        re.compile(r"(?:outlook|hotmail|live)\.[a-z]{2,3}(?:\.[a-z]{2})?|msn\.com"),
        ("outlook.com", "office365.com", "hotmail.com", "live.com"),
    ),
    (re.compile(r"(?:icloud|me|mac)\.com"), ("me.com", "icloud.com", "apple.com")),
    (re.compile(r"gmx\.[a-z]{2,3}|web\.de"), ("gmx.net", "gmx.com", "gmx.de", "web.de")),
)


def alignment(sender: str, via: Connection) -> Iterator[Finding]:
    """Yield what DMARC will find wrong with a From of this domain, sent by this connection.

    DMARC asks that the domain of the envelope (SPF) or that of a signature (DKIM) is the From's, relaxed: of the same
    organisation (RFC 7489, 3.1). Google asks for that of 5,000 mails a day, and Microsoft refuses such mail with
    550 5.7.515 otherwise.

    Args:
        sender: The From's domain, as on the wire.
        via: The connection.
    """
    ours = _host(sender)
    yield from _impersonating(ours, via)
    signers = [_host(each.domain) for each in via.signers]
    foreign = [domain for domain in signers if not _related(domain, ours)]
    if foreign:
        text = f"The DKIM signature is of {_shown(foreign[0])}, but the mail is from {_shown(ours)}: DMARC does not count it."
        yield Finding("dkim-domain", text, "", "Sign with a key of the From's domain, or of one above it.")
    envelope = _host(str(getattr(via, "envelope_from", "") or "").rpartition("@")[2])
    if envelope and not _related(envelope, ours) and len(foreign) == len(signers):
        text = f"The mail is from {_shown(ours)}, but its bounces go to {_shown(envelope)}, and nothing here signs for {_shown(ours)}: unless the server does, DMARC fails."
        fix = "Take envelope_from= from the From's domain, or sign with dkim= for it."
        yield Finding("from-unaligned", text, "", fix)


def _impersonating(ours: str, via: Connection) -> Iterator[Finding]:
    if via.sandbox or via.practice or via.is_loopback:
        return  # what a server of this machine passes mail on to is not known
    host = _host(via.host)
    for domains, hosts in _PROVIDERS:
        if domains.fullmatch(ours) and not any(host == h or host.endswith(f".{h}") for h in hosts):
            text = f"The mail is from {_shown(ours)}, but goes by {_shown(host)}: who receives it will take it for forged."
            fix = (
                "Send from a domain of yours, or by the mailbox's own server; reply_to= may name any address."
            )
            yield Finding("from-provider", text, "", fix)


def _host(name: str) -> str:
    """Return a host as it is compared: its A-labels in lower case, without ``www.``."""
    plain = name.strip().strip(".").lower()
    if not plain.isascii() and len(plain) < 256:  # noqa: PLR2004 - RFC 1035, 2.3.4
        try:
            plain = plain.encode("idna").decode("ascii")
        except UnicodeError:
            return plain
    return plain.removeprefix("www.")


def _related(one: str, other: str) -> bool:
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


# ------------------------------------------------------------------------------------------ bulk mail

_REPLY = re.compile(r"\s*(?:re|fwd?)(?:\[\d+\])?\s*:", re.IGNORECASE)


def personal(message: Message) -> Iterator[Finding]:
    """Yield what pretends to be personal; it may differ from row to row of a merge.

    Google asks that a subject says Re: or Fwd: only where it is so, and that a display name is the sender's own, not
    the recipient's: https://support.google.com/a/answer/81126
    """
    if _REPLY.match(message.subject) and not {n.lower() for n, _ in message.headers} & {
        "in-reply-to",
        "references",
    }:
        text = "The subject says that this answers or forwards a mail, and no header says which."
        fix = "Take the Re: or Fwd: away, or name the mail: headers={'In-Reply-To': '<id@example.com>'}."
        yield Finding("subject-reply", text, "", fix)
    sender = message.from_
    if sender is not None and sender.display_name:
        name = sender.display_name.casefold()
        if any(a.display_name.casefold() == name and a.wire != sender.wire for a in message.to):
            text = "The sender's name is the recipient's own, as in mails that deceive."
            yield Finding("sender-name", text, "", "Let the name in From say who sends it.")


#: What a link to unsubscribe is called, in its words or its address.
_UNSUBSCRIBING = re.compile(
    r"un-?subscri|opt-?\s?out|abmeld|abbestell|austragen|d[ée]sabonn|d[ée]sinscri|darse de baja|cancelar (?:la )?suscrip"
    r"|disiscri|uitschrij|afmeld|avregistr|avanm[äe]l|frameld|wypisz|odhl[áa]s",
    re.IGNORECASE,
)


def _bulk(message: Message, page: Page) -> Iterator[Finding]:
    """Look at what Google, Yahoo and laws ask of bulk mail.

    https://support.google.com/a/answer/81126 and https://senders.yahooinc.com/best-practices/: one click (RFC 8058),
    and a visible link in the body.
    """
    if not message.is_bulk:
        return
    links = one_click(message.unsubscribe)
    if len(links) != 1:
        text = "This is bulk mail, and nobody can unsubscribe by one click, as Google and Yahoo ask."
        yield Finding("bulk-one-click", text, "", "Give unsubscribe= one https: address of the row's own.")
    if any(reveals(link, message.recipients) for link in links):
        yield open_link()
    missing = [
        where
        for where, shown in (
            ("the text", _link_in_text(message)),
            ("the HTML", message.html is None or _link_in_page(message, page)),
        )
        if not shown
    ]
    if missing:
        text = f"This is bulk mail, and {' and '.join(missing)} shows no link to unsubscribe."
        fix = "Link to it from the body; the default theme does so in its footer."
        yield Finding("bulk-link", text, "", fix)
    yield from _postal(message)


def _link_in_text(message: Message) -> bool:
    text = message.text or ""
    return any(uri in text for uri in message.unsubscribe) or _UNSUBSCRIBING.search(text) is not None


def _link_in_page(message: Message, page: Page) -> bool:
    return any(
        href.strip() in message.unsubscribe or _UNSUBSCRIBING.search(f"{href} {text}")
        for href, text in page.links
    )


def _postal(message: Message) -> Iterator[Finding]:
    """Look for the address that laws ask for in advertising.

    In the USA the CAN-SPAM Act does: 15 U.S.C. 7704(a)(5)(A)(iii); 16 CFR 316.2(p) says what counts as one.
    """
    address = message.postal_address
    if not address:
        text = "This is bulk mail without a postal address, which laws ask for in advertising (15 U.S.C. 7704(a)(5))."
        fix = "Give postal_address=, or pass over this where the mail advertises nothing."
        yield Finding("bulk-postal", text, "", fix, "info")
    elif not all(
        _letters(address) in _letters(part)
        for part in (message.text or "", *([message.html] if message.html is not None else []))
    ):
        text = "The postal address does not stand in the body, and this theme does not show it."
        yield Finding(
            "bulk-postal", text, "", "Write it into the body, or use a theme that shows it.", "info"
        )


_TAGS = re.compile(r"<[^<>]*+>")


def _letters(text: str) -> str:
    """Return the letters and digits of a text or of HTML: an address may stand on several lines."""
    return re.sub(r"[\W_]+", "", html.unescape(_TAGS.sub("", text))).casefold()


def open_link() -> Finding:
    """Return what to say of an address for unsubscribing that tells who gets the mail (RFC 8058, 3.1)."""
    text = "The address for unsubscribing has the recipient's own address in it, which anybody could guess or log."
    return Finding("bulk-link-open", text, "", "Put a random token into it, kept beside the row.")


def shared_link(first: int, second: int, more: int) -> Finding:
    """Return what to say of rows with one address for unsubscribing.

    Args:
        first: The position of a row.
        second: That of the first other with the same address.
        more: How many more share theirs with an earlier row.
    """
    others = f", and {more:,} more {'row' if more == 1 else 'rows'} one with an earlier row" if more else ""
    text = f"Rows {first} and {second} have the same address for unsubscribing{others}: who uses it takes the other off the list."
    return Finding("bulk-link-shared", text, "", "Put something of the row's own into it, such as a token.")


_CODED = ((re.compile(r"[A-Za-z0-9_-]{8,}"), b"-_"), (re.compile(r"[A-Za-z0-9+/]{8,}"), b"+/"))


def reveals(uri: str, recipients: Sequence[str]) -> bool:
    """Tell whether a URI has an address in it: in clear, percent-encoded, or as base64 (RFC 4648)."""
    text = unquote(unquote(uri)) if "%" in uri else uri
    plain = text.casefold()
    folded = [address.casefold() for address in recipients]
    if any(address in plain for address in folded):
        return True
    least = min(map(len, folded), default=0) * 4 // 3
    for pattern, others in _CODED:
        for found in pattern.findall(text):
            if len(found) >= least and any(address in _decoded(found, others) for address in folded):
                return True
    return False


def _decoded(word: str, others: bytes) -> str:
    try:
        octets = base64.b64decode(word + "=" * (-len(word) % 4), others)
    except (binascii.Error, ValueError):
        return ""
    return octets.decode("latin-1").casefold()


# ------------------------------------------------------------------------------------ text and parts


def _leftovers(message: Message, page: Page) -> Iterator[Finding]:
    places = {"the subject": message.subject, "the text": message.text or "", "the HTML": page.left}
    found = {where: left[0] for where, text in places.items() if (left := LEFT.search(text))}
    if found:
        text = f"Template text was not filled in {' and '.join(found)}{_few(found.values())}."
        yield Finding("template-left", text, "", "Fill it in with a Template, or take the braces out.")


def _parts(message: Message, page: Page) -> Iterator[Finding]:
    """Look at the two parts that say the same (RFC 2046, 5.1.4).

    SpamAssassin's rules HTML_IMAGE_ONLY_* count against pictures with little text, MIME_HTML_ONLY against HTML alone.
    """
    has_text = bool((message.text or "").strip())
    if message.html is None:
        if not has_text:
            yield Finding("body-empty", "The mail has no text.", "", "Give body=.")
        return
    if not (page.has_text or page.has_picture or page.has_other):
        if has_text:
            text = "The HTML part is empty, and it is what most readers see."
            yield Finding("html-empty", text, "", "Leave html= out, or put the text into it.")
        else:
            yield Finding("body-empty", "The mail has no text.", "", "Give body=.")
        return
    if not has_text:
        text = (
            "The text part beside the HTML is empty: who reads no HTML sees nothing, and filters dislike it."
        )
        yield Finding("text-missing", text, "", "Give text=, or leave it out and it is made from the body.")
    if page.has_picture and not (page.has_text or page.has_other):
        text = (
            "The body is pictures alone: nothing can be read until they are loaded, and filters dislike it."
        )
        yield Finding("image-only", text, "", "Write the main points as text.")


def _size(message: Message, page: Page) -> Iterator[Finding]:
    size = len((message.html or "").encode("utf-8", "replace"))
    if size > CLIP:
        text = f"The HTML is {_kb(size)}, and Gmail shows about {_kb(CLIP)} of it"
        fix = "Shorten it, or attach the rest as a file."
        if 2 * page.table.span > len(message.html or ""):
            text += f"; a table of {page.table.rows:,} rows takes {_kb(page.table.span)}"
            fix = 'Show the first rows, and attach the table as a file: attach=[Attachment(frame, "rows.xlsx")].'
        yield Finding("html-clipped", f"{text}.", "Gmail", fix)
    if page.sheet > SHEET:
        text = f"The style sheets are {_kb(page.sheet)}, and Gmail keeps the first {_kb(SHEET)}."
        yield Finding("styles-clipped", text, "Gmail", "Leave out the rules that nothing uses.")


def _kb(size: int) -> str:
    return f"{size / 1024:,.0f} kB"


# -------------------------------------------------------------------------------------------- images

_SUFFIXES = {
    "svg": "svg+xml",
    "webp": "webp",
    "avif": "avif",
    "heic": "heic",
    "heif": "heif",
    "tif": "tiff",
    "tiff": "tiff",
    "ico": "x-icon",
}
_LENGTH = re.compile(r"\s*+(\d{1,6})(?:\.\d*+)?(?:px)?\s*+")
_DATA_TYPE = re.compile(r"data:image/([\w.+-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One <img>, and the file that it shows where the mail has it."""

    image: Image
    file: Attachment | None

    @property
    def src(self) -> str:
        return self.image.src

    @property
    def is_data(self) -> bool:
        return self.src[:5].lower() == "data:"

    @property
    def name(self) -> str:
        """What a person calls it: its file, as far as that is known."""
        if self.file is not None:
            return self.file.name
        if self.is_data:
            return self.src[:22] + "…"
        return re.split(r"[?#]", self.src, maxsplit=1)[0].rstrip("/").rpartition("/")[2] or self.src

    @property
    def format(self) -> str:
        """The last part of its media type, as far as its name tells."""
        if self.file is not None:
            return self.file.type.partition(";")[0].strip().lower().rpartition("/")[2]
        if found := _DATA_TYPE.match(self.src):
            return found[1].lower()
        suffix = self.name.rpartition(".")[2].lower()
        return _SUFFIXES.get(suffix, suffix)


def _images(message: Message, page: Page) -> Iterator[Finding]:
    files = {a.content_id: a for a in (*message.inline, *message.attach) if a.content_id}
    pictures = [_Picture(image, _file(image.src, files)) for image in page.images]
    for code, holds, words, clients, fix in _IMAGE_RULES:
        if found := [p for p in pictures if holds(p)]:
            names = _few(p.name for p in found)
            yield Finding(code, _said(len(found), words).format(names), clients, fix)
    yield from _formats(pictures)
    yield from _remote(pictures, page)


def _file(src: str, files: Mapping[str, Attachment]) -> Attachment | None:
    """Return the file that an address names by its Content-ID (RFC 2392)."""
    name = src[4:] if src[:4].lower() == "cid:" else ""
    return files.get(name) or files.get(unquote(name))


def _unreachable(picture: _Picture) -> bool:
    src = picture.src
    if LEFT.search(src) or picture.is_data or src.startswith("//"):
        return False
    return _trouble(src) in {"link-empty", "link-relative", "link-local"}


def _too_wide(picture: _Picture) -> bool:
    if not picture.image.outlook:
        return False
    if found := _LENGTH.fullmatch(picture.image.width):
        return int(found[1]) > LETTER
    return picture.file is not None and _pixels(picture.file.content) > LETTER


def _pixels(content: bytes) -> int:
    """Return how many pixels wide a PNG, GIF or JPEG is; 0 for anything else."""
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(content[16:20], "big")
    if content[:6] in {b"GIF87a", b"GIF89a"}:
        return int.from_bytes(content[6:8], "little")
    if content[:2] == b"\xff\xd8":
        return _jpeg_pixels(content)
    return 0


def _jpeg_pixels(content: bytes) -> int:
    """Walk the segments of a JPEG to its frame header (ITU-T T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:  # noqa: PLR2004 - a marker's first octet
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:  # noqa: PLR2004 - SOF0 to SOF15
            return int.from_bytes(content[place + 7 : place + 9], "big")
        fill = marker == 0xFF  # noqa: PLR2004 - any number of these may stand before a marker
        place += 1 if fill else 2 + max(2, int.from_bytes(content[place + 2 : place + 4], "big"))
    return 0


_INTO_MAIL = 'Put the file into the mail: inline=[path] and src="cid:name".'
#: Code, condition, words with a place for the names, clients and fix.
_IMAGE_RULES: tuple[tuple[str, Callable[[_Picture], bool], str, str, str], ...] = (
    (
        "image-unreachable",
        _unreachable,
        "[image|images] can be loaded by this machine alone{}.",
        "",
        _INTO_MAIL,
    ),
    (
        "image-alt",
        lambda p: not p.image.alt,
        "[image has|images have] no alt text{}: who is not shown [it|them] reads a file's name, or nothing.",
        "",
        'Write alt="what is to be seen", or alt="" for a mere ornament.',
    ),
    (
        # Outlook takes the width from the attribute alone, and a percentage of the file's own width:
        # caniemail.com, css-width and html-width.
        "image-wide",
        _too_wide,
        f"[image is|images are] wider than a letter of {LETTER} pixels{{}}, which only a width attribute can change.",
        support.clients(OUTLOOK),
        f'Write width="{LETTER}", or less, into the <img>.',
    ),
    (
        # caniemail.com, image-base64; Outlook 2019 shows them except for GIF.
        "image-data",
        lambda p: p.is_data,
        "[image is|images are] written into the HTML as data:{}, and not shown.",
        support.clients("GO"),
        _INTO_MAIL,
    ),
)


def _formats(pictures: Iterable[_Picture]) -> Iterator[Finding]:
    found: dict[Feature, list[_Picture]] = {}
    for picture in pictures:
        feature = support.IMAGES.get(picture.format)
        if feature is not None and (picture.image.outlook or feature.lacking != OUTLOOK):
            found.setdefault(feature, []).append(picture)
    for feature, those in found.items():
        text = _said(len(those), f"[image is|images are] in the format {feature.name}")
        names = _few(p.name for p in those)
        yield Finding(
            "image-format", f"{text}{names}, and not shown.", support.clients(feature.lacking), feature.fix
        )


def _remote(pictures: Iterable[_Picture], page: Page) -> Iterator[Finding]:
    """Say what is loaded from elsewhere.

    Outlook loads nothing from the web unless asked ("Block or unblock automatic picture downloads in email
    messages", Microsoft Support); others can be set so, and their readers often set them so.
    """
    names = [p.name for p in pictures if p.src.lower().startswith(("http:", "https:", "//"))]
    names += ["a background"] * page.remote_backgrounds
    if names:
        text = _said(len(names), "[image comes|images come] from the web")
        text += (
            f"{_few(names)}: many readers see nothing until they allow it, and the server learns who reads."
        )
        yield Finding("image-remote", text, "", _INTO_MAIL)


# --------------------------------------------------------------------------------------------- links

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*+):", re.IGNORECASE)
_AUTHORITY = re.compile(r"https?://([^/?#\\]*+)", re.IGNORECASE)
_PORT = re.compile(r":(\d{0,5})$")
_HOST = re.compile(r"[^\W_][\w-]*+(?:\.[\w-]++)*+\.?|\[[0-9a-f:.]++\]", re.IGNORECASE)
_LOCAL = re.compile(r"(?:.*\.)?localhost\.?|127\.[\d.]++|0\.0\.0\.0|\[::1?\]", re.IGNORECASE)
_URL_TEXT = re.compile(r"(?:https?://|www\.)[^\s<>\"]++", re.IGNORECASE)
_BLANK = "".join(map(chr, range(33)))
#: Longer ones are judged by their beginning.
_LONGEST_URL = 2048

_LINKS: Mapping[str, tuple[str, str]] = {
    "link-empty": (
        "[link leads|links lead] nowhere{}.",
        "Give the address in href=, or take the link out.",
    ),
    "link-relative": (
        "[link has|links have] no scheme{}, and a mail has no page to complete [it|them] from.",
        "Write the whole address: https://…",
    ),
    "link-local": (
        "[link leads|links lead] to this machine, which no reader can reach{}.",
        "Link to an address on the web, or attach the file.",
    ),
    "link-script": (
        "[link|links] would run a script or open data{}, which no mail program does.",
        "Link to a page.",
    ),
    "link-malformed": (
        "[link has|links have] an address that is none{}.",
        "Correct it: https://host/path.",
    ),
    "link-mismatch": (
        "[link says|links say] another host than [it leads|they lead] to{}, as phishing does.",
        "Let the text be words, or the address that the link leads to.",
    ),
}


def _links(page: Page) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for href, text in page.links:
        if LEFT.search(href):
            continue
        trouble = _trouble(href)
        if trouble:
            found.setdefault(trouble, []).append(href.strip() or text.strip())
        elif _misleading(href, text):
            found.setdefault("link-mismatch", []).append(f"{_shown(text)} leads to {_host_of(href)}")
    for code, (words, fix) in _LINKS.items():
        if code in found:
            yield Finding(code, _said(len(found[code]), words).format(_few(found[code])), "", fix)


def _trouble(url: str) -> str:
    """Return the code of what is wrong with an address, or ""."""
    # Browsers take control characters out of an address, and blanks around it (WHATWG URL, 4.4).
    bare = re.sub(r"[\t\r\n]", "", url[:_LONGEST_URL]).strip(_BLANK)
    if bare in {"", "#"}:
        return "link-empty"
    if bare[0] == "#":
        return ""
    found = _SCHEME.match(bare)
    scheme = found[1].lower() if found else ""
    if scheme in {"javascript", "vbscript", "data"}:
        return "link-script"
    if scheme in {"file", "blob", "about", "localhost"} or len(scheme) == 1:  # C:\…
        return "link-local"
    if not found or ("." in scheme and not bare.startswith("//", found.end())):  # example.com:8080
        return "link-relative"
    if scheme in {"http", "https"}:
        return _web_trouble(bare)
    if scheme == "mailto":
        return "" if re.search(r"[@?]|%40", bare) else "link-malformed"
    return "" if bare[found.end() :] else "link-malformed"


def _web_trouble(url: str) -> str:
    found = _AUTHORITY.match(url)
    if found is None:
        return "link-malformed"
    host = found[1].rpartition("@")[2]
    port = _PORT.search(host)
    if port:
        host = host[: port.start()]
    if _LOCAL.fullmatch(host):
        return "link-local"
    too_high = port is not None and int(port[1] or 0) > 65535  # noqa: PLR2004 - 16 bits
    if too_high or host.lower() in {"http", "https"} or not _HOST.fullmatch(host):
        return "link-malformed"
    return ""


def _host_of(url: str) -> str:
    found = _AUTHORITY.match(url.strip()[:_LONGEST_URL])
    return _host(_PORT.sub("", found[1].rpartition("@")[2])) if found else ""


def _misleading(href: str, text: str) -> bool:
    """Tell whether a link's text is itself a web address, of another host."""
    shown = text.strip()
    if not _URL_TEXT.fullmatch(shown):
        return False
    claimed = _host_of(shown if "://" in shown[:8] else f"http://{shown}")
    actual = _host_of(href)
    return bool(claimed and actual) and not _related(claimed, actual)


#: What is said in words, not in code, begins a sentence.
_ARTICLE = re.compile(r"^(?:an?|the|text)(?= )")


def _features(code: str, verb: str, found: Mapping[Feature, Places]) -> Iterator[Finding]:
    """Yield a Finding for each feature; the last one stands for those that are too many."""
    every = list(found.items())
    shown = every if len(every) <= _MOST else every[: _MOST - 1]
    for feature, places in shown:
        name = _ARTICLE.sub(lambda m: m[0].capitalize(), feature.name)
        where = f" ({places.count:,} places)" if places.count > 1 else ""
        yield Finding(code, f"{name} {verb}{where}.", _clients(places.letters), feature.fix)
    rest = every[len(shown) :]
    if rest:
        letters = set().union(*(p.letters for _, p in rest))
        names = ", ".join(f.name for f, _ in rest)
        yield Finding(
            code,
            f"{len(rest)} more: {names}.",
            _clients(letters),
            "Look each up at https://www.caniemail.com/.",
        )


def _clients(letters: set[str]) -> str:
    return support.clients("".join(letters))
