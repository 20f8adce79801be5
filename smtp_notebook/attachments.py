"""One file of a mail, made from bytes, text, a path, a frame, a figure or an image.

Optional libraries are recognised through ``sys.modules``; none is imported to ask.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import importlib
import io
import json
import math
import mimetypes
import re
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtp_notebook.addresses import CONTROL, shortened
from smtp_notebook.charts import chart_file, loaded
from smtp_notebook.mime import parameters_of
from smtp_notebook.outcome import AttachmentError, MessageError

__all__ = ["Attachment", "files_of", "inside", "named_properties", "refuse_ambiguous", "with_id"]

_DPI = 144
#: A figure of 200 inches is drawn more coarsely, so that its picture fits into memory.
_MOST_PIXELS = 40e6
_CONNECTOR = ("ContentData", "ContentType", "ContentTransferEncoding", "FileName", "ContentId")

_CHARACTERS = r"[A-Za-z0-9!#$&^_.+-]+"
#: RFC 2045, 5.1, without the values that would need a backslash.
_TYPE = re.compile(rf'{_CHARACTERS}/{_CHARACTERS}(?: *; *{_CHARACTERS}=(?:{_CHARACTERS}|"[ !#-\[\]-~]+"))*')
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}")
_ENCODINGS = {"base64": "base64", "none": "none", "7bit": "none"}
_WIDEST_7BIT = 998
_LONGEST_NAME = 255
_UNKNOWN = "application/octet-stream"
#: Types that have a structure of their own, which a reader would take apart.
_STRUCTURED = ("multipart/", "message/")
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
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
            .xlsx, .parquet or .html), a figure, a chart (.png, or .html for one that moves), a PIL image, a
            dict or list (.json), or any object that shows itself as an image, HTML, Markdown, LaTeX or JSON. Never a path: see `from_path`.
        name: The file's name; made from the type when missing.
        type: The media type, such as ``image/png`` or ``text/calendar; method=REQUEST``; guessed from
            the name when missing.
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
        kind, name_in_type = _checked_type(type) if type else (None, None)
        name = name or name_in_type
        if isinstance(content, Attachment):
            name, kind = name or content.name, kind or content.type
            content_id = content_id or content.content_id
            data = content.content
        else:
            data, made_name = _file(content, name, kind)
            if name and made_name and not Path(name).suffix:
                kind = kind or _guessed_type(made_name)
            name = name or made_name or _default_name(kind)
        name = _checked_name(name)
        values = {
            "content": data,
            "name": name,
            "type": kind or _guessed_type(name),
            "content_id": None if content_id is None else _checked_content_id(content_id),
            "transfer_encoding": _checked_encoding(transfer_encoding, data, name),
        }
        for attribute, value in values.items():
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
            AttachmentError: It is missing, a folder or a device, or cannot be read.
        """
        place = _place(path, str(path))
        return cls(_read(place, str(path)), name or place.name, type, content_id)

    @classmethod
    def from_connector(cls, properties: Mapping[str, Any]) -> Attachment:
        """Return the file that the connector's JSON means; see `Message.from_connector`.

        Raises:
            MessageError: A property that it does not have, or content that is not base64.
        """
        given = named_properties(properties, _CONNECTOR)
        encoding = str(given.get("ContentTransferEncoding") or "base64").strip().lower()
        data = given.get("ContentData")
        name = given.get("FileName") or None
        if not isinstance(data, str):
            cause = f"The attachment {shortened(str(name or ''))} has no ContentData."
            raise AttachmentError(cause, "It is base64 text, or text with the encoding none.")
        if encoding not in {"base64", "none"}:
            cause = f"ContentTransferEncoding: {shortened(encoding)} is no encoding."
            raise AttachmentError(cause, "It is base64 or none.")
        content = _encoded(data) if encoding == "none" else _decoded(data, str(name or ""))
        # Content that came unencoded travels so where mail can hold it.
        plain = encoding == "none" and _fits_7bit(content)
        return cls(
            content,
            name,
            given.get("ContentType") or None,
            given.get("ContentId") or None,
            "none" if plain else "base64",
        )

    def to_connector(self) -> dict[str, str]:
        """Return the connector's JSON for this file."""
        plain = self.transfer_encoding == "none"
        found = {
            "ContentData": self.content.decode() if plain else base64.b64encode(self.content).decode(),
            "ContentType": self.type,
            "ContentTransferEncoding": "none" if plain else "base64",
            "FileName": self.name,
        }
        return found | ({"ContentId": self.content_id} if self.content_id else {})

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
    if not text.strip():
        raise AttachmentError("The path of an attachment is empty.", "Fill it in, or leave it out.")
    place = _place(root / _place(text, text), text)
    try:
        place, folder = place.resolve(), root.resolve()
    except (OSError, RuntimeError):
        raise AttachmentError(f"The attachment {shortened(text)} is a link to itself.", _CHECK_PATH) from None
    if not place.is_relative_to(folder):
        cause = f"The attachment {shortened(text)} lies outside {str(root)!r}."
        raise AttachmentError(cause, "Use Attachment.from_path(…), or name the folder: attach_root=….")
    return Attachment(_read(place, text, f"Paths begin at {str(root)!r}."), Path(text).name)


_CHECK_PATH = "Check the path."


def _place(path: str | Path, text: str) -> Path:
    if CONTROL.search(text):
        cause = f"The path {shortened(text)} has a control character in it."
        raise AttachmentError(cause, "Check the cell that it comes from.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise AttachmentError(
            f"The attachment {shortened(text)} is in the home of nobody here.", _CHECK_PATH
        ) from None


def _read(place: Path, text: str, missing: str = "") -> bytes:
    """Return a file's bytes; *text* is how the person wrote its path."""
    what = f"The attachment {shortened(text, 200)}"
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            raise AttachmentError(f"{what} is a folder.", "Zip it, or attach its files.")
        if not stat.S_ISREG(kind):
            # A pipe would block, and /dev/zero never ends.
            raise AttachmentError(f"{what} is no regular file.", "Attach an open file or bytes instead.")
        return place.read_bytes()
    except FileNotFoundError:
        fix = missing or f"Check the path; the working folder is {str(Path.cwd())!r}."
        raise AttachmentError(f"{what} does not exist.", fix) from None
    except PermissionError:
        raise AttachmentError(f"{what} may not be read by you.", "Check its permissions.") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise AttachmentError(f"{what} cannot be read: {why}.", _CHECK_PATH) from None


# ------------------------------------------------------------------------------- several, and the JSON


def files_of(value: Any, root: Path) -> tuple[Attachment, ...]:
    """Return what ``attach=`` or ``inline=`` was given as Attachments; text and Paths are paths in *root*."""
    if value is None:
        return ()
    items: Sequence[Any] = list(value) if isinstance(value, list | tuple | set) else [value]
    return tuple(_one_file(item, root) for item in items)


def _one_file(item: Any, root: Path) -> Attachment:
    if isinstance(item, Attachment):
        return item
    if isinstance(item, str | Path):
        return inside(item, root)
    if isinstance(item, bytes | bytearray):
        raise AttachmentError(
            "Bytes need a name to be attached.", "Attachment(content, name='report.pdf') gives one."
        )
    return Attachment(item)


def with_id(file: Attachment) -> Attachment:
    """Return an inline image with a Content-ID: its name when it has none."""
    if file.content_id:
        return file
    identifier = re.sub(r"[^A-Za-z0-9._-]", "-", file.name)
    return Attachment(file.content, file.name, file.type, identifier, file.transfer_encoding)


def refuse_ambiguous(files: Iterable[Attachment]) -> None:
    """Refuse two different files under one Content-ID: a reader would show either (RFC 2392)."""
    seen: dict[str, Attachment] = {}
    for file in files:
        if file.content_id and seen.setdefault(file.content_id, file) != file:
            cause = f"Two files have the Content-ID {file.content_id!r}."
            raise AttachmentError(cause, "Give each its own: Attachment(…, content_id=…).")


def named_properties(given: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the properties under their own names, case aside; refuse what is none."""
    if not isinstance(given, Mapping):
        raise MessageError(
            f"The connector's properties are of type {type(given).__name__}, not a dict.",
            "json.loads() makes one.",
        )
    by_lower = {n.lower(): n for n in names}
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = by_lower.get(str(name).lower())
        if own is None:
            near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
            fix = f"Did you mean {by_lower[near[0]]!r}?" if near else f"It has {', '.join(names)}."
            raise MessageError(f"The connector has no property {name!r}.", fix)
        if own in found:
            raise MessageError(f"The property {own!r} is there twice.", "Keep one of them.")
        found[own] = value
    return found


def _decoded(data: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        cause = f"The ContentData of {shortened(name)} is not base64."
        raise AttachmentError(cause, "Encode it, or say ContentTransferEncoding: none for text.") from None


# --------------------------------------------------------------------------------------- the content


def _file(content: Any, name: str | None, kind: str | None) -> tuple[bytes, str | None]:
    """Return the bytes of *content*, and a name for it where it has one."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content), None
    if isinstance(content, str):
        return _encoded(content), None if kind else "attachment.txt"
    if isinstance(content, Path):
        raise AttachmentError(f"{str(content)!r} is a path, not content.", "Use Attachment.from_path(path).")
    if callable(getattr(content, "read", None)):
        own = getattr(content, "name", None)
        return _drained(content), Path(own).name if isinstance(own, str) else None
    return _shown(content, name)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        cause = "The text of an attachment has half of a character in it."
        raise AttachmentError(cause, "Clean it, or attach its bytes.") from None


def _drained(file: Any) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        cause = f"The open file cannot be read: {str(error).rstrip('.') or type(error).__name__}."
        raise AttachmentError(cause, "Open it for reading, or attach its bytes.") from None
    if isinstance(data, str):
        return _encoded(data)
    if not isinstance(data, bytes | bytearray | memoryview):
        cause = f"Reading the open file gave {type(data).__name__}, not bytes or text."
        raise AttachmentError(cause, "Attach its bytes.")
    return bytes(data)


def _shown(content: Any, name: str | None) -> tuple[bytes, str | None]:
    suffix = Path(name or "").suffix.lower()
    try:
        if _is_frame(content):
            return _frame(content, suffix or ("" if name else ".csv"), name), "table.csv"
        if isinstance(content, loaded("matplotlib.axes", "Axes")):
            content = content.figure
        if isinstance(content, loaded("matplotlib.figure", "Figure")):
            return _figure(content, suffix), "figure.png"
        if isinstance(content, loaded("PIL.Image", "Image")):
            return _image(content, suffix or ".png"), "image.png"
        if (chart := chart_file(content, suffix)) is not None:
            return chart
    except AttachmentError:
        raise
    except MessageError as error:
        raise AttachmentError(error.cause, error.fix) from error
    except ImportError as error:
        cause = f"A {suffix} file needs another package: {str(error).rstrip('.')}."
        raise AttachmentError(cause, "Install openpyxl for .xlsx, pyarrow for .parquet.") from None
    except (ValueError, TypeError, KeyError, OSError, NotImplementedError, OverflowError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        cause = f"The {type(content).__name__} cannot be written as {suffix or 'a file'}: {why}."
        raise AttachmentError(cause, "Give it another name, or write the file yourself.") from None
    return _represented(content, suffix)


def _figure(figure: Any, suffix: str) -> bytes:
    width, height = (max(float(inches), 1e-3) for inches in figure.get_size_inches())
    dpi = min(_DPI, math.sqrt(_MOST_PIXELS / (width * height)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.lstrip(".") or "png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()


def _image(image: Any, suffix: str) -> bytes:
    formats = sys.modules["PIL.Image"].registered_extensions()
    if suffix not in formats:
        raise AttachmentError(
            f"An image cannot be attached as {shortened(suffix)}.", "Its name may end in .png, .jpg or .webp."
        )
    buffer = io.BytesIO()
    image.save(buffer, format=formats[suffix])
    return buffer.getvalue()


_REPRESENTATIONS = (
    ("png", ("", ".png"), "image.png"),
    ("jpeg", ("", ".jpg", ".jpeg"), "image.jpg"),
    ("svg", ("", ".svg"), "image.svg"),
    ("html", ("", ".html", ".htm"), "page.html"),
    ("markdown", ("", ".md"), "text.md"),
    ("latex", ("", ".tex"), "formula.tex"),
    ("json", ("", ".json"), "data.json"),
)


def _represented(content: Any, suffix: str) -> tuple[bytes, str]:
    """Return what an object shows in a notebook: the first kind that it has and that the name allows."""
    if isinstance(content, dict | list) and suffix in {"", ".json"}:
        return _json(content), "data.json"
    has: list[str] = []
    for kind, suffixes, name in _REPRESENTATIONS:
        method = getattr(content, f"_repr_{kind}_", None)
        if isinstance(content, type) or not callable(method):
            continue
        data = method() if suffix in suffixes else None
        if data is not None:
            return _bytes(data[0] if isinstance(data, tuple) else data, kind), name
        has.append(suffixes[1])
    if has:
        cause = f"The {type(content).__name__} cannot be attached as {suffix or 'a file'}."
        raise AttachmentError(cause, f"Its name may end in {' or '.join(has)}.")
    raise AttachmentError(
        f"An object of type {type(content).__name__} cannot be attached.",
        "Attach bytes, text, an open file, a frame, a figure or an image, or use Attachment.from_path().",
    )


def _json(data: Any) -> bytes:
    try:
        return _encoded(json.dumps(data, indent=2, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        cause = f"The {type(data).__name__} cannot be written as JSON: {why}."
        raise AttachmentError(cause, "Attach its text, or a frame of it.") from None


def _bytes(data: Any, kind: str) -> bytes:
    if isinstance(data, bytes):
        return data
    if kind == "json":
        return _json(data)
    # IPython's image reprs are base64 text where they are not bytes.
    return base64.b64decode(data) if kind in {"png", "jpeg"} else _encoded(str(data))


def _is_frame(value: Any) -> bool:
    """Tell whether it is a frame: pandas', or one that offers itself as Arrow or as an interchange frame."""
    if isinstance(value, type):
        return False
    return isinstance(value, loaded("pandas", "DataFrame", "Series")) or (
        (hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__"))
        and hasattr(value, "columns")
    )


def _frame(frame: Any, suffix: str, name: str | None) -> bytes:
    """Return a frame as the kind of file that the suffix says; the index only where it has meaning."""
    if suffix not in {".csv", ".html", ".xlsx", ".parquet"}:
        cause = f"A frame cannot be attached as {shortened(name or '')}."
        raise AttachmentError(cause, "Its name must end in .csv, .xlsx, .parquet or .html.")
    import pandas as pd

    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if not isinstance(frame, pd.DataFrame):
        import narwhals as nw

        frame = nw.from_native(frame, eager_only=True).to_pandas()
    index = not isinstance(frame.index, pd.RangeIndex)
    if suffix == ".csv":
        # The byte order mark makes spreadsheet programs read the file as UTF-8.
        text: str = frame.to_csv(index=index, lineterminator="\r\n")
        return text.encode("utf-8-sig")
    if suffix == ".html":
        return _encoded(frame.to_html(index=index, border=0))
    buffer = io.BytesIO()
    if suffix == ".parquet":
        frame.to_parquet(buffer, index=index)
    else:
        _write_xlsx(frame, buffer, index=index)
    return buffer.getvalue()


def _write_xlsx(frame: Any, buffer: io.BytesIO, *, index: bool) -> None:
    """Write a workbook in which text stays text: a cell of ``=1+1`` is no formula (CWE-1236)."""
    import pandas as pd

    illegal = importlib.import_module("openpyxl.utils.exceptions").IllegalCharacterError
    with warnings.catch_warnings(), pd.ExcelWriter(buffer, engine="openpyxl") as writer:
        # openpyxl cuts what is too long and only warns; a file that lacks text is no file to send.
        warnings.simplefilter("error", UserWarning)
        try:
            frame.to_excel(writer, index=index)
        except UserWarning as warning:
            raise ValueError(str(warning)) from None
        except illegal:
            raise ValueError("a cell has a control character in it") from None
        for sheet in writer.sheets.values():
            for cells in sheet.iter_rows():
                for cell in cells:
                    if cell.data_type == "f":
                        cell.data_type = "s"


# ---------------------------------------------------------------------------------------- the checks


def _default_name(kind: str | None) -> str:
    suffix = mimetypes.guess_extension(kind.partition(";")[0].strip()) if kind else None
    return f"attachment{suffix or '.bin'}"


def _guessed_type(name: str) -> str:
    known = _TYPES.get(Path(name).suffix.lower())
    if known:
        return known
    kind, packed = mimetypes.guess_type(f"x/{name}")
    if packed:
        return _PACKED.get(packed, _UNKNOWN)
    return _UNKNOWN if kind is None or kind.startswith(_STRUCTURED) else kind


def _checked_type(kind: str) -> tuple[str, str | None]:
    """Return a media type without its name parameter, and that name."""
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind.strip()):
        raise AttachmentError(f"{shortened(str(kind))} is no media type.", "Write it as image/png.")
    plain, parameters = parameters_of(kind.strip())
    if plain.startswith(_STRUCTURED):
        raise AttachmentError(
            f"A file of type {plain} cannot be attached.", "Attach it as application/octet-stream."
        )
    name = parameters.pop("name", None)
    if name is None:
        return kind.strip(), None
    return "; ".join([kind.partition(";")[0].strip(), *(f'{k}="{v}"' for k, v in parameters.items())]), name


def _checked_name(name: str) -> str:
    """Return the name when it is one file's name, without a path or control characters."""
    if (
        not isinstance(name, str)
        or CONTROL.search(name)
        or "/" in name
        or "\\" in name
        or name.strip() in {"", ".", ".."}
    ):
        raise AttachmentError(
            f"{shortened(str(name))} is no file name.", "A name has no path and no control characters in it."
        )
    if len(name.encode()) > _LONGEST_NAME:
        raise AttachmentError(
            f"The file name {shortened(name)} is longer than {_LONGEST_NAME} bytes.", "Shorten it."
        )
    return name.strip()


def _checked_content_id(content_id: str) -> str:
    plain = str(content_id).strip().removeprefix("<").removesuffix(">")
    if not _CONTENT_ID.fullmatch(plain):
        raise AttachmentError(
            f"{shortened(str(content_id))} is no Content-ID.", "Use letters, digits, dots and one @."
        )
    return plain


def _checked_encoding(encoding: str | None, data: bytes, name: str) -> str:
    chosen = _ENCODINGS.get(str(encoding or "base64").strip().lower())
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
