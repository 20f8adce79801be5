"""Any notebook object as mail: HTML, its text twin, and the images that the HTML shows.

An object is asked the way IPython's display asks it: for a mimebundle. Optional libraries are
recognised through ``sys.modules`` and never imported to ask.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtp_notebook.bodies import html_to_text, inline_css
from smtp_notebook.message import Attachment
from smtp_notebook.outcome import MessageError

__all__ = [
    "MAX_ROWS",
    "Fragment",
    "clean_html",
    "is_plain",
    "merged_images",
    "render",
    "render_bundle",
    "shows_itself",
]

#: A table in a mail shows at most this many rows; the rest is counted below it.
MAX_ROWS = 200
_MAX_COLUMNS = 50
_IMAGES = ("image/png", "image/jpeg", "image/gif")
_RETINA = 2
_DROPPED = "script|style|iframe|object|embed|applet|form|input|button|select|textarea|link|meta|base|svg|math|noscript|title"
_LINE = "border-bottom:1px solid #d0d7de"


@dataclass(frozen=True, slots=True)
class Fragment:
    """An object as a piece of mail.

    Attributes:
        html: HTML for the inside of a body.
        text: The same as plain text.
        inline: The images that ``cid:`` in *html* refers to.
        block: Whether the HTML is a block, which no paragraph may enclose.
    """

    html: str
    text: str
    inline: tuple[Attachment, ...] = ()
    block: bool = True


def is_plain(value: object) -> bool:
    """Tell whether *value* is printed with ``str()``: text, numbers, dates and their like.

    False for whatever has a display of its own, such as a frame, a figure or a widget.
    """
    if value is None or isinstance(value, str | int | float | bytes):
        return True
    if _is_table(value) or isinstance(value, list | tuple | set | dict | Fragment):
        return False
    return not (any(hasattr(type(value), f"_repr_{kind}_") for kind in _REPRS) or _is_figure(value))


_REPRS = ("mimebundle", "html", "markdown", "png", "jpeg", "svg", "latex", "json")


def shows_itself(value: object) -> bool:
    """Tell whether `render` shows *value* by itself, without asking how a notebook would: a table, a figure."""
    return _is_table(value) or _is_figure(value)


def render(value: object) -> Fragment:
    """Return *value* as mail-safe HTML with its text twin and images; a Fragment as it is.

    Raises:
        MessageError: The object only shows itself with JavaScript (a widget, an interactive chart).
    """
    if isinstance(value, Fragment):
        return value
    if _is_table(value):
        return _table(value)
    if isinstance(value, list | tuple | set):
        return _several(list(value))
    if isinstance(value, dict):
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        return Fragment(_preformatted(text), text)
    if _is_figure(value):
        return _image(Attachment(value, "figure.png"), _figure_title(value))
    return render_bundle(_mimebundle(value), type(value).__name__, value)


def _several(values: Sequence[object]) -> Fragment:
    if all(is_plain(v) for v in values):
        text = ", ".join(str(v) for v in values)
        return Fragment(html.escape(text), text, block=False)
    parts = [render(v) if not is_plain(v) else _paragraph(str(v)) for v in values]
    return Fragment(
        "\n".join(p.html for p in parts),
        "\n\n".join(p.text for p in parts),
        tuple(a for p in parts for a in p.inline),
    )


def _paragraph(text: str) -> Fragment:
    return Fragment(f"<p>{html.escape(text)}</p>", text)


def _preformatted(text: str) -> str:
    return f'<pre style="white-space:pre-wrap">{html.escape(text)}</pre>'


# ------------------------------------------------------------------------------------------- tables


def _is_table(value: object) -> bool:
    pandas, polars, arrow = (sys.modules.get(n) for n in ("pandas", "polars", "pyarrow"))
    return bool(
        (pandas and isinstance(value, pandas.DataFrame | pandas.Series))
        or (polars and isinstance(value, polars.DataFrame | polars.Series))
        or (arrow and isinstance(value, arrow.Table))
    )


def _table(value: Any) -> Fragment:
    head, rows, total, more_columns = _cells(value)
    numeric = [all(_number(r[i]) or r[i] is None for r in rows) and bool(rows) for i in range(len(head))]
    texts = [[_cell(c) for c in row] for row in rows]
    notes = [f"{total - len(rows):,} more rows"] if total > len(rows) else []
    notes += [f"{more_columns:,} more columns"] if more_columns else []
    note = f"… and {' and '.join(notes)}" if notes else ""
    return Fragment(_table_html(head, texts, numeric, note), _table_text(head, texts, numeric, note))


def _cells(value: Any) -> tuple[list[str], list[list[Any]], int, int]:
    """Return the head, the shown rows, and how many rows and further columns there are."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.Series | pandas.DataFrame):
        frame = value.to_frame() if isinstance(value, pandas.Series) else value
        plain = isinstance(frame.index, pandas.RangeIndex)
        shown = frame.iloc[:MAX_ROWS, :_MAX_COLUMNS]
        shown = shown if plain else shown.reset_index()
        columns = [_label(c) for c in shown.columns]
        rows = [list(r) for r in shown.itertuples(index=False, name=None)]
        return columns, rows, len(frame), max(0, frame.shape[1] - _MAX_COLUMNS)
    import narwhals as nw

    native = nw.from_native(value, allow_series=True)
    table = native.to_frame() if isinstance(native, nw.Series) else native
    names = list(table.columns)
    rows = [list(r)[:_MAX_COLUMNS] for r in table.head(MAX_ROWS).iter_rows()]
    return names[:_MAX_COLUMNS], rows, len(table), max(0, len(names) - _MAX_COLUMNS)


def _label(name: object) -> str:
    parts = name if isinstance(name, tuple) else (name,)
    return " ".join(str(p) for p in parts if p not in ("", None))


def _number(cell: object) -> bool:
    return not isinstance(cell, bool) and (isinstance(cell, int | float) or hasattr(cell, "__float__"))


def _cell(cell: object) -> str:
    if cell is None or cell != cell or type(cell).__name__ in {"NAType", "NaTType"}:  # noqa: PLR0124 - NaN is the one value that differs from itself
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell.is_integer() and abs(cell) < 1e15 else f"{cell:,.6g}"  # noqa: PLR2004 - beyond 1e15 floats lose whole numbers
    if hasattr(cell, "hour") and str(cell).endswith(" 00:00:00"):
        return str(cell).removesuffix(" 00:00:00")
    return str(cell)


def _table_html(head: list[str], rows: list[list[str]], numeric: list[bool], note: str) -> str:
    aligned = [f"text-align:{'right' if n else 'left'};padding:6px 10px;vertical-align:top" for n in numeric]
    tops = "".join(
        f'<th style="{a};border-bottom:2px solid #d0d7de">{html.escape(h)}</th>'
        for h, a in zip(head, aligned, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(f'<td style="{a};{_LINE}">{html.escape(c)}</td>' for c, a in zip(row, aligned, strict=True))
        + "</tr>\n"
        for row in rows
    )
    foot = f'<p style="margin:0 0 16px;font-size:13px">{html.escape(note)}</p>' if note else ""
    style = "border-collapse:collapse;margin:0 0 16px;font-size:14px"
    return f'<table style="{style}">\n<thead><tr>{tops}</tr></thead>\n<tbody>\n{lines}</tbody></table>{foot}'


def _table_text(head: list[str], rows: list[list[str]], numeric: list[bool], note: str) -> str:
    flat = [[re.sub(r"\s+", " ", c) for c in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in flat) for i in range(len(head))]
    lines = [
        "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in flat
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([*lines, note] if note else lines)


# ------------------------------------------------------------------------------------------- images


def _is_figure(value: object) -> bool:
    figure = sys.modules.get("matplotlib.figure")
    return figure is not None and isinstance(value, figure.Figure)


def _figure_title(figure: Any) -> str:
    """Return the figure's own title: what a reader without images gets to read."""
    title = figure.get_suptitle() if hasattr(figure, "get_suptitle") else ""
    titles = [title, *(axes.get_title() for axes in figure.axes)]
    return next((str(t) for t in titles if t), "Figure")


def _image(attachment: Attachment, alt: str) -> Fragment:
    """Return an image of the mail: shown by Content-ID, which is made from its bytes."""
    digest = hashlib.sha256(attachment.content).hexdigest()[:20]
    suffix = attachment.type.partition("/")[2]
    cid = f"{digest}@image"
    part = Attachment(attachment.content, f"{digest[:8]}.{suffix}", attachment.type, content_id=cid)
    width, height = _png_size(attachment.content)
    size = f' width="{width}" height="{height}"' if width else ""
    style = "max-width:100%;height:auto;border:0"
    tag = f'<img src="cid:{cid}" alt="{html.escape(alt)}"{size} style="{style}">'
    return Fragment(tag, f"[{alt}]", (part,))


def _png_size(content: bytes) -> tuple[int, int]:
    """Return the size in CSS pixels at which a PNG is shown, at most 568 wide; (0, 0) for no PNG."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return 0, 0
    width, height = struct.unpack(">II", content[16:24])
    room = 568
    shown = min(width // _RETINA if width > room else width, room)
    return shown, round(height * shown / width)


# ---------------------------------------------------------------------------------------- mimebundle


def _mimebundle(value: object) -> dict[str, Any]:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        data, _ = shell.display_formatter.format(value)
        return dict(data)
    data = {}
    for kind, mime in _OWN_REPRS.items():
        method = getattr(value, f"_repr_{kind}_", None)
        result = method() if callable(method) else None
        if result is not None:
            data[mime] = result
    bundle = getattr(value, "_repr_mimebundle_", None)
    if callable(bundle):
        result = bundle()
        data |= result[0] if isinstance(result, tuple) else result
    return data


_OWN_REPRS = {
    "html": "text/html",
    "markdown": "text/markdown",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "latex": "text/latex",
}


def render_bundle(data: Mapping[str, Any], name: str, otherwise: object = "") -> Fragment:
    """Return what a mimebundle shows, in the form that mail shows best: an image, HTML, Markdown, LaTeX, text.

    Args:
        data: The mimebundle, such as IPython's ``display`` publishes.
        name: What is shown: an image's text, and what errors call it.
        otherwise: Printed where nothing in *data* can be shown.

    Raises:
        MessageError: It is shown by JavaScript alone.
    """
    for mime in _IMAGES:
        if data.get(mime):
            return _image(Attachment(_raw(data[mime]), None, mime), name)
    if any("widget" in mime or "plotly" in mime or "vega" in mime for mime in data):
        cause = f"A {name} shows itself with JavaScript, which mail programs do not run."
        raise MessageError(cause, "Save it as a PNG and put the image there, or attach it as HTML.")
    if data.get("text/html"):
        clean = clean_html(str(data["text/html"]))
        return Fragment(clean, html_to_text(clean).strip())
    if data.get("text/markdown"):
        from markdown_it import MarkdownIt

        source = str(data["text/markdown"])
        return Fragment(MarkdownIt("commonmark", {"html": False}).enable("table").render(source), source)
    text = str(data.get("text/latex") or data.get("text/plain") or otherwise)
    return Fragment(_preformatted(text), text) if "\n" in text else _inline_text(text)


def _inline_text(text: str) -> Fragment:
    return Fragment(html.escape(text), text, block=False)


def _raw(image: str | bytes) -> bytes:
    # IPython gives a figure as base64 text and a PIL image as bytes.
    return image if isinstance(image, bytes) else base64.b64decode(image)


def clean_html(source: str) -> str:
    """Return an HTML fragment with its CSS inlined and everything live removed.

    Scripts, frames, forms, event handlers and links with other schemes than http, https, mailto, tel,
    cid and (for images) data go; what is left is shown as it was.
    """
    from lxml import etree
    from lxml import html as lxml_html

    root = lxml_html.fragment_fromstring(inline_css(source), create_parent="div")
    for node in list(root.iter()):
        if not isinstance(node.tag, str) or re.fullmatch(_DROPPED, node.tag, re.IGNORECASE):
            _drop(node)
            continue
        for attribute in list(node.attrib):
            if not _harmless(attribute.lower(), node.attrib[attribute]):
                del node.attrib[attribute]
    inner = [html.escape(root.text or "", quote=False)]
    inner += [etree.tostring(child, encoding="unicode", method="html") for child in root]
    return "".join(inner).strip()


def _drop(node: Any) -> None:
    """Remove a node but keep the text that follows it."""
    parent = node.getparent()
    if parent is not None:
        node.drop_tree()


def _harmless(name: str, value: str) -> bool:
    if name.startswith("on") or name in {"srcdoc", "formaction", "srcset", "http-equiv"}:
        return False
    squeezed = re.sub(r"[\x00-\x20]", "", value).lower()
    if name in {"href", "src", "background", "action", "xlink:href"}:
        scheme = re.match(r"([a-z][a-z0-9+.\-]*):", squeezed)
        return (
            scheme is None
            or scheme[1] in {"http", "https", "mailto", "tel", "cid"}
            or squeezed.startswith("data:image/")
        )
    return not (name == "style" and re.search(r"expression\(|javascript:|url\(|@import", squeezed))


def merged_images(fragments: Iterable[Fragment]) -> tuple[Attachment, ...]:
    """Return every image once, in the order of first use."""
    seen: dict[str | None, Attachment] = {}
    for fragment in fragments:
        for part in fragment.inline:
            seen.setdefault(part.content_id, part)
    return tuple(seen.values())
