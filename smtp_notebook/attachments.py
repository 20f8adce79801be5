"""One file of a mail, made from bytes, text, a path, a frame, a figure or an image.

Optional libraries are recognised through ``sys.modules``; none is imported to ask.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook.addresses import CONTROL, shortened
from smtp_notebook.outcome import AttachmentError

__all__ = ["Attachment", "inside"]

_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}")
_ENCODINGS = {"base64": "base64", "none": "none", "7bit": "none"}
_WIDEST_7BIT = 998
_LONGEST_NAME = 255
#: The types that mimetypes does not know on every system, or knows differently.
_TYPES = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".ics": "text/calendar",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".parquet": "application/vnd.apache.parquet",
    ".ipynb": "application/x-ipynb+json",
    # RFC 2046, 5.2.1 forbids base64 for message/rfc822, and mail programs open the file all the same.
    ".eml": "application/octet-stream",
}


@dataclass(frozen=True, init=False)
class Attachment:
    """One file, as it will be read.

    Args:
        content: Bytes, text (UTF-8), an open file, a DataFrame (the suffix of *name* chooses .csv,
            .xlsx, .parquet or .html), a figure, a PIL image, or any object that shows itself as an
            image or HTML. Never a path: see `from_path`.
        name: The file's name; made from the type when missing.
        type: The media type; guessed from the name or the content when missing.
        content_id: What ``cid:`` in the HTML calls it, without brackets.
        transfer_encoding: ``base64`` (default), or ``none`` for ASCII text with short lines.

    Raises:
        AttachmentError: The content cannot be made into a file, or a name or type is not allowed.
    """

    content: bytes
    name: str
    type: str
    content_id: str | None
    transfer_encoding: str

    def __init__(
        self,
        content: Any,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - the field's standard name (RFC 2045)
        content_id: str | None = None,
        transfer_encoding: str | None = None,
    ) -> None:
        data, made_name, made_type = _file(content, name)
        name = _checked_name(name or made_name or _default_name(type or made_type))
        kind = type or made_type or _guessed_type(name)
        _check_type(kind)
        if content_id is not None:
            content_id = _checked_content_id(content_id)
        for attribute, value in (
            ("content", data),
            ("name", name),
            ("type", kind),
            ("content_id", content_id),
            ("transfer_encoding", _checked_encoding(transfer_encoding, data, name)),
        ):
            object.__setattr__(self, attribute, value)

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - as above
        content_id: str | None = None,
    ) -> Attachment:
        """Return the file at *path*, read now and whole; its own name by default.

        Raises:
            AttachmentError: It is missing, a folder, or cannot be read.
        """
        place = Path(path).expanduser()
        return cls(_read(place), name or place.name, type, content_id)

    @property
    def size(self) -> int:
        """The file's size in bytes, before it is encoded for the mail."""
        return len(self.content)

    def __repr__(self) -> str:
        return f"<Attachment {self.name!r}, {self.type}, {self.size:,} bytes>"


def inside(path: str | Path, root: Path) -> Attachment:
    """Return the file at *path*, relative to *root*, which it must not leave, links followed.

    Raises:
        AttachmentError: It lies outside, or cannot be read.
    """
    text = str(path)
    if CONTROL.search(text):
        raise AttachmentError(
            f"The path {shortened(text)} has a control character in it.", "Check the cell that it comes from."
        )
    place = (root / Path(text).expanduser()).resolve()
    if not place.is_relative_to(root.resolve()):
        cause = f"The attachment {shortened(text)} lies outside {str(root)!r}."
        raise AttachmentError(cause, "Use Attachment.from_path(…), or name the folder: attach_root=….")
    try:
        return Attachment.from_path(place)
    except AttachmentError as error:
        raise AttachmentError(
            error.cause.replace(str(place), text), error.fix or f"Paths begin at {str(root)!r}."
        ) from None


def _read(place: Path) -> bytes:
    if place.is_dir():
        raise AttachmentError(f"The attachment {str(place)!r} is a folder.", "Zip it, or attach its files.")
    try:
        return place.read_bytes()
    except FileNotFoundError:
        raise AttachmentError(f"The attachment {str(place)!r} does not exist.") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise AttachmentError(
            f"The attachment {str(place)!r} cannot be read: {why}.", "Check its permissions."
        ) from None


# --------------------------------------------------------------------------------------- the content


def _file(content: Any, name: str | None) -> tuple[bytes, str | None, str | None]:
    """Return the bytes of *content*, with a name and a type where it decides them."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content), None, None
    if isinstance(content, str):
        return content.encode("utf-8", "strict"), None if name else "attachment.txt", None
    if isinstance(content, Attachment):
        return content.content, content.name, content.type
    if isinstance(content, Path):
        raise AttachmentError(f"{str(content)!r} is a path, not content.", "Use Attachment.from_path(path).")
    if callable(getattr(content, "read", None)):
        data = content.read()
        file_name = getattr(content, "name", None)
        own = Path(file_name).name if isinstance(file_name, str) else None
        return (data.encode() if isinstance(data, str) else bytes(data)), own, None
    return _shown(content, name)


def _shown(content: Any, name: str | None) -> tuple[bytes, str | None, str | None]:
    if (
        _is(content, "pandas", "DataFrame", "Series")
        or _is(content, "polars", "DataFrame")
        or _is(content, "pyarrow", "Table")
    ):
        return _frame(content, name or "table.csv")
    if _is(content, "matplotlib.figure", "Figure"):
        suffix = Path(name or "figure.png").suffix.lower().lstrip(".") or "png"
        buffer = io.BytesIO()
        content.savefig(buffer, format=suffix, dpi=144, bbox_inches="tight")
        return buffer.getvalue(), "figure.png", None
    if _is(content, "PIL.Image", "Image"):
        suffix = Path(name or "image.png").suffix.lower().lstrip(".")
        buffer = io.BytesIO()
        content.save(buffer, format={"jpg": "JPEG"}.get(suffix, suffix.upper() or "PNG"))
        return buffer.getvalue(), "image.png", None
    for kind, suffix in (("png", "png"), ("jpeg", "jpg"), ("svg", "svg"), ("html", "html")):
        method = getattr(content, f"_repr_{kind}_", None)
        data = method() if callable(method) else None
        if data is not None:
            return _bytes(data, kind), f"image.{suffix}" if suffix != "html" else "page.html", None
    cause = f"A {type(content).__name__} cannot be attached."
    raise AttachmentError(
        cause,
        "Attach bytes, text, an open file, a frame, a figure or an image, or use Attachment.from_path().",
    )


def _bytes(data: Any, kind: str) -> bytes:
    if isinstance(data, bytes):
        return data
    # IPython's image reprs are base64 text where they are not bytes.
    return base64.b64decode(data) if kind in {"png", "jpeg"} else str(data).encode()


def _is(value: object, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and any(
        isinstance(value, getattr(loaded, n)) for n in names if hasattr(loaded, n)
    )


def _frame(frame: Any, name: str) -> tuple[bytes, str | None, str | None]:
    """Return a frame as the kind of file that the name's suffix says; the index only where it has meaning."""
    if _is(frame, "pandas", "Series"):
        frame = frame.to_frame()
    if not _is(frame, "pandas", "DataFrame"):
        import narwhals as nw

        frame = nw.from_native(frame).to_pandas()
    import pandas as pd

    index = not isinstance(frame.index, pd.RangeIndex)
    suffix = Path(name).suffix.lower()
    buffer = io.BytesIO()
    try:
        if suffix == ".csv":
            # The byte order mark makes spreadsheet programs read the file as UTF-8.
            return frame.to_csv(index=index, lineterminator="\r\n").encode("utf-8-sig"), name, None
        if suffix == ".html":
            return frame.to_html(index=index, border=0).encode(), name, None
        if suffix == ".xlsx":
            frame.to_excel(buffer, index=index)
            return buffer.getvalue(), name, None
        if suffix == ".parquet":
            frame.to_parquet(buffer, index=index)
            return buffer.getvalue(), name, None
    except ImportError as error:
        raise AttachmentError(
            f"A {suffix} file needs another package: {error}.",
            "Install openpyxl for .xlsx, pyarrow for .parquet.",
        ) from None
    cause = f"A frame cannot be attached as {shortened(name)}."
    raise AttachmentError(cause, "Its name must end in .csv, .xlsx, .parquet or .html.")


# ---------------------------------------------------------------------------------------- the checks


def _default_name(kind: str | None) -> str:
    suffix = mimetypes.guess_extension(kind) if kind else None
    return f"attachment{suffix or '.bin'}"


def _guessed_type(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _check_type(kind: str) -> None:
    if not _TYPE.fullmatch(kind):
        raise AttachmentError(f"{shortened(kind)} is no media type.", "Write it as image/png.")
    if kind.lower().startswith(("multipart/", "message/")):
        raise AttachmentError(
            f"A file of type {kind} cannot be attached.", "Attach it as application/octet-stream."
        )


def _checked_name(name: str) -> str:
    """Return the name when it is one file's name, without a path or control characters."""
    if CONTROL.search(name) or "/" in name or "\\" in name or name.strip() in {"", ".", ".."}:
        raise AttachmentError(
            f"{shortened(name)} is no file name.", "A name has no path and no control characters in it."
        )
    if len(name.encode()) > _LONGEST_NAME:
        raise AttachmentError(
            f"The file name {shortened(name)} is longer than {_LONGEST_NAME} bytes.", "Shorten it."
        )
    return name.strip()


def _checked_content_id(content_id: str) -> str:
    plain = content_id.strip().removeprefix("<").removesuffix(">")
    if not _CONTENT_ID.fullmatch(plain):
        raise AttachmentError(
            f"{shortened(content_id)} is no Content-ID.", "Use letters, digits, dots and one @."
        )
    return plain


def _checked_encoding(encoding: str | None, data: bytes, name: str) -> str:
    chosen = _ENCODINGS.get((encoding or "base64").strip().lower())
    if chosen is None:
        raise AttachmentError(f"{shortened(str(encoding))} is no transfer encoding.", "It is base64 or none.")
    if chosen == "none" and not _fits_7bit(data):
        cause = f"The attachment {name!r} cannot go without an encoding: it is not plain ASCII text with CRLF line ends."
        raise AttachmentError(cause, "Use base64.")
    return chosen


def _fits_7bit(data: bytes) -> bool:
    lines = data.replace(b"\r\n", b"\n")
    bare = b"\r" in lines or data.count(b"\n") != data.count(b"\r\n")
    return (
        data.isascii()
        and not bare
        and b"\0" not in data
        and max(map(len, lines.split(b"\n"))) <= _WIDEST_7BIT
    )
