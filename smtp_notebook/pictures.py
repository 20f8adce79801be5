"""Images on their way into a mail: of a size that readers see, with width, height and alt text.

Mail programs show PNG, JPEG and GIF; Outlook goes by the width and height attributes alone. So a figure is drawn
for the width of a letter at twice its resolution, whatever its own size, and an SVG becomes a PNG.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import html
import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from smtp_notebook.attachments import Attachment
from smtp_notebook.outcome import MessageError

__all__ = [
    "WIDTH",
    "Picture",
    "figure_of",
    "figure_png",
    "formula_png",
    "from_data_uri",
    "half_of",
    "pil_bytes",
    "size_of",
    "svg_png",
]

#: The most that a letter of 600 pixels shows, in CSS pixels.
WIDTH = 568
_RETINA = 2
#: How many pixels a drawn figure has at most; a poster of 200 inches becomes a small picture of one.
_MOST_WIDE = WIDTH * _RETINA
_MOST_HIGH = 8000
_DPI = 144
#: Ten points become the size of a letter's text, at twice its resolution.
_FORMULA_DPI = 220
#: A photograph beyond this many bytes travels as JPEG.
_LARGE_PNG = 400_000
_JPEG_QUALITY = 85
#: An image that says it has more pixels on one side than JPEG and GIF can have is not believed.
_LIKELY = 65_535
_SVG_FIX = "pip install 'smtp_notebook[svg]', or save it as a PNG."


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a mail, and the tag that shows it.

    Attributes:
        tag: The ``<img>``.
        part: The image, known by a Content-ID that is made of its bytes: equal images are one part.
        alt: What a reader without images gets to read.
    """

    tag: str
    part: Attachment
    alt: str

    @classmethod
    def of(cls, content: bytes, kind: str, alt: str, *, width: int = 0, block: bool = True) -> Picture:
        """Return image bytes as a Picture.

        Args:
            content: PNG, JPEG or GIF.
            kind: Its media type.
            alt: What to read instead.
            width: How wide it is to be shown, in CSS pixels; 0 for as wide as it is, or half of that when it
                would not fit. Never wider than a letter.
            block: Whether it stands on a line of its own.
        """
        digest = hashlib.sha256(content).hexdigest()[:20]
        suffix = {"image/jpeg": "jpg"}.get(kind, kind.partition("/")[2])
        identifier = f"{digest}@image"
        part = Attachment(content, f"{digest[:8]}.{suffix}", kind, content_id=identifier)
        shown, height = _shown_size(*size_of(content), width)
        size = f' width="{shown}" height="{height}"' if shown else f' width="{WIDTH}"'
        # "height:auto" keeps the proportions where a narrow screen makes it smaller.
        style = "max-width:100%;height:auto;border:0;" + (
            "display:block;margin:0 0 16px" if block else "vertical-align:middle"
        )
        tag = f'<img src="cid:{identifier}" alt="{html.escape(alt)}"{size} style="{style}">'
        return cls(tag, part, alt)


def _shown_size(width: int, height: int, wanted: int) -> tuple[int, int]:
    """Return the size in CSS pixels at which an image is shown; (0, 0) when its own is not known."""
    if not width or not height or max(width, height) > _LIKELY:
        return 0, 0
    natural = wanted or (width // _RETINA if width > WIDTH else width)
    shown = max(1, min(natural, WIDTH))
    return shown, max(1, round(height * shown / width))


def half_of(content: bytes) -> int:
    """Return the width at which an image that was drawn at twice its resolution is shown."""
    return max(1, size_of(content)[0] // _RETINA)


def size_of(content: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, JPEG or GIF in pixels, from its head; (0, 0) for anything else.

    A photograph that says it lies on its side has the size at which it is shown.
    """
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:  # noqa: PLR2004 - its first chunk
        return struct.unpack(">II", content[16:24])
    if content[:6] in {b"GIF87a", b"GIF89a"} and len(content) >= 10:  # noqa: PLR2004 - its head
        return struct.unpack("<HH", content[6:10])
    return _jpeg_size(content) if content[:2] == b"\xff\xd8" else (0, 0)


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Follow a JPEG's segments to the one that begins a frame (ITU T.81, B.2.2)."""
    place = 2
    aside = False
    while place + 9 <= len(content) and content[place] == 0xFF:  # noqa: PLR2004 - a marker
        marker = content[place + 1]
        if marker == 0xFF:  # noqa: PLR2004 - fill bytes
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:  # noqa: PLR2004 - SOF0 to SOF15
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return (height, width) if aside else (width, height)
        length = int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xE1:  # noqa: PLR2004 - APP1
            aside = aside or _is_aside(content[place + 4 : place + 2 + length])
        place += 2 + length
    return 0, 0


def _is_aside(segment: bytes) -> bool:
    """Tell whether an Exif segment says that rows are columns: orientation, tag 0x0112, of 5 to 8 (CIPA DC-008, 4.6)."""
    if segment[:6] != b"Exif\0\0":
        return False
    tiff = segment[6:]
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for place in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 9), 12):
        if int.from_bytes(tiff[place : place + 2], order) == 0x0112:  # noqa: PLR2004 - the tag
            return 5 <= int.from_bytes(tiff[place + 8 : place + 10], order) <= 8  # noqa: PLR2004 - its values
    return False


# ------------------------------------------------------------------------------------------ drawing


def figure_of(artist: Any) -> Any:
    """Return the whole figure that a matplotlib artist is part of, itself perhaps; None for one that was removed."""
    figure = artist.get_figure()
    # A part of a figure cannot draw itself.
    return figure if figure is None or hasattr(figure, "savefig") else figure.figure


def figure_png(figure: Any) -> bytes:
    """Return a matplotlib figure as a PNG for the width of a letter, at twice its resolution.

    An unchanged figure gives the same bytes however often it is drawn.
    """
    width, height = (max(float(inches), 1e-3) for inches in figure.get_size_inches())
    dpi = max(1.0, min(_DPI, _MOST_WIDE / width, _MOST_HIGH / height))
    with _layout_kept(figure):
        # "tight" asks for room around what sticks out, which an axis with wild limits may want without end.
        png = _saved(figure, dpi=dpi, bbox_inches="tight")
        return png if max(size_of(png)) <= 2 * _MOST_HIGH else _saved(figure, dpi=dpi)


def _saved(figure: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


_MARGINS = ("left", "right", "bottom", "top", "wspace", "hspace")


@contextlib.contextmanager
def _layout_kept(figure: Any) -> Iterator[None]:
    """Put the axes back to where they stood: a layout engine begins where the last drawing left them.

    So every drawing would differ a little, and a mail that is printed again would not be what was checked.
    """
    if figure.get_layout_engine() is None:
        yield
        return
    margins = {name: getattr(figure.subplotpars, name) for name in _MARGINS}
    places = [
        (axes, which, axes.get_position(original=which == "original").frozen(), axes.get_in_layout())
        for axes in figure.axes
        for which in ("original", "active")
    ]
    try:
        yield
    finally:
        figure.subplotpars.update(**margins)
        for axes, which, place, in_layout in places:
            axes.set_position(place, which=which)
            axes.set_in_layout(in_layout)  # setting a position takes them out of the layout


def pil_bytes(image: Any) -> tuple[bytes, str]:
    """Return a PIL image as PNG or JPEG bytes with their media type, no larger than readers see."""
    image = _upright(image)
    if image.width > _MOST_WIDE or image.height > _MOST_HIGH:
        image = image.copy()
        if image.mode not in {"RGB", "RGBA", "L", "LA"}:
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        image.thumbnail((_MOST_WIDE, _MOST_HIGH))
    if image.mode not in {"RGB", "RGBA", "L", "LA", "P", "1"}:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    if buffer.tell() > _LARGE_PNG and image.mode in {"RGB", "L"}:
        other = io.BytesIO()
        image.save(other, format="JPEG", quality=_JPEG_QUALITY)
        if other.tell() < buffer.tell():
            return other.getvalue(), "image/jpeg"
    return buffer.getvalue(), "image/png"


def _upright(image: Any) -> Any:
    """Return a photograph as its camera was held, and 16 bits of grey as the 8 that mail programs show."""
    from PIL import ImageOps

    if image.mode.startswith("I;16"):
        image = image.point(lambda grey: grey * (1 / 256)).convert("L")
    return ImageOps.exif_transpose(image)


def formula_png(source: str) -> bytes | None:
    """Return a LaTeX formula as a PNG, drawn by matplotlib's mathtext; None where it cannot be drawn."""
    try:
        from matplotlib import mathtext
    except ImportError:
        return None
    inner = source.strip()
    for begin, end in (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)")):
        if inner.startswith(begin) and inner.endswith(end) and len(inner) > len(begin) + len(end):
            inner = inner[len(begin) : -len(end)]
            break
    inner = re.sub(
        r"\\(?:displaystyle|limits|begin\{(?:equation|align)\*?\}|end\{(?:equation|align)\*?\})", "", inner
    )
    buffer = io.BytesIO()
    try:
        mathtext.math_to_image(f"${' '.join(inner.split())}$", buffer, dpi=_FORMULA_DPI, format="png")
    except Exception:  # noqa: BLE001 - mathtext knows a part of LaTeX, and says so in many ways
        return None
    return buffer.getvalue()


def svg_png(source: str | bytes) -> bytes:
    """Return an SVG as a PNG of about twice the width at which a letter shows it; nothing is loaded for it.

    Raises:
        MessageError: No library that draws SVG is installed, or it cannot be drawn.
    """
    draw = _svg_drawer()
    try:
        text, width, height = _plain_svg(source)
        return draw(
            text, max(1, round(width * _scale(width, height))), max(1, round(height * _scale(width, height)))
        )
    except Exception as error:  # noqa: BLE001 - the parser and the Rust libraries raise what they like
        cause = f"The SVG cannot be drawn: {' '.join(str(error).split())[:200].rstrip('.')}."
        raise MessageError(cause, "Save it as a PNG and put the image there.") from None


def _svg_drawer() -> Callable[[str, int, int], bytes]:
    """Return what draws an SVG at a size in pixels."""
    try:
        import resvg_py
    except ImportError:
        pass
    else:
        return lambda text, width, height: bytes(
            resvg_py.svg_to_bytes(svg_string=text, width=width, height=height)
        )
    try:
        import vl_convert
    except ImportError:
        raise MessageError("Mail programs do not show SVG, and nothing here can draw it.", _SVG_FIX) from None
    # It has a scale, not a size; the text was given its size.
    return lambda text, _width, _height: bytes(vl_convert.svg_to_png(text))


def _scale(width: float, height: float) -> float:
    return min(_RETINA, _MOST_WIDE / width, _MOST_HIGH / height)


_LENGTH = re.compile(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(px|pt|pc|in|cm|mm)?\s*", re.IGNORECASE)
_PIXELS = {"": 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def _plain_svg(source: str | bytes) -> tuple[str, float, float]:
    """Return an SVG that refers to nothing outside itself, with its width and height in pixels."""
    from lxml import etree

    data = source.encode() if isinstance(source, str) else source
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(re.sub(rb"<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>", b"", data, flags=re.DOTALL), parser)
    for node in list(root.iter()):
        tag = node.tag if isinstance(node.tag, str) else ""
        target = (node.get("href") or node.get(_HREF) or "#").strip().lower()
        outside = not target.startswith(("#", "data:image/"))
        live = tag in {f"{_SVG}script", f"{_SVG}foreignObject"} or not tag
        if (live or (outside and tag != f"{_SVG}a")) and node.getparent() is not None:
            node.getparent().remove(node)
        elif tag == f"{_SVG}feTurbulence" and len(node.get("numOctaves", "")) > 1:
            node.set("numOctaves", "9")  # the next one changes no pixel, and each takes as long as the first
    _refuse_chains(root)
    width, height = _svg_size(root)
    # The libraries go by the size that the image itself says.
    scale = _scale(width, height)
    root.set("viewBox", root.get("viewBox") or f"0 0 {width:g} {height:g}")
    root.set("width", f"{width * scale:g}")
    root.set("height", f"{height * scale:g}")
    return etree.tostring(root, encoding="unicode"), width, height


_REFERENCE = re.compile(r"url\(\s*[\"']?\s*#([^)\"'\s]+)")


def _refuse_chains(root: Any) -> None:
    """Refuse elements that refer to each other in a long chain or a circle.

    The libraries follow them recursively, and where the stack ends so does the process.
    """
    from lxml import etree

    targets: dict[str, set[str]] = {}
    around: list[str] = []
    styled: set[str] = set()
    for event, node in etree.iterwalk(root, events=("start", "end")):
        if event == "end":
            around.pop()
            continue
        around.append(node.get("id") or "")
        link = "" if node.tag == f"{_SVG}a" else (node.get("href") or node.get(_HREF) or "").strip()
        found = {link[1:]} if link.startswith("#") else set()
        found.update(*(_REFERENCE.findall(value) for value in node.attrib.values()))
        if node.tag == f"{_SVG}style":
            styled.update(_REFERENCE.findall("".join(node.itertext())))
        for name in filter(None, around if found else ()):
            targets.setdefault(name, set()).update(found)
    if len(styled) > _MOST_STYLED:
        raise ValueError("its style sheet refers to too many elements")
    reached = set(targets)
    for _ in range(_LONGEST_CHAIN):
        reached = {target for name in reached for target in targets.get(name, ())}
        if not reached:
            return
    raise ValueError("its elements refer to each other without end")


#: No drawing has elements that use elements that use elements so often.
_LONGEST_CHAIN = 50
#: Which elements a style sheet connects is not followed, so that there may be few.
_MOST_STYLED = 10


def _svg_size(root: Any) -> tuple[float, float]:
    box = [float(n) for n in re.split(r"[\s,]+", (root.get("viewBox") or "").strip()) if n][2:4]
    lengths = [_LENGTH.fullmatch(root.get(side) or "") for side in ("width", "height")]
    found = [float(m[1]) * _PIXELS[(m[2] or "").lower()] if m else 0.0 for m in lengths]
    if box and all(box):
        ratio = box[0] / box[1]
        found = [
            found[0] or (found[1] * ratio if found[1] else box[0]),
            found[1] or (found[0] / ratio if found[0] else box[1]),
        ]
    return found[0] or 300.0, found[1] or 150.0  # CSS 2.1, 10.3.2: what a replaced element without a size has


_DATA = re.compile(r"data:(image/[a-z+]+)((?:;[^,;]*)*),(.*)", re.IGNORECASE | re.DOTALL)


def from_data_uri(uri: str) -> tuple[bytes, str] | None:
    """Return the image inside a ``data:`` URI (RFC 2397) with its media type, an SVG drawn; None for no image."""
    found = _DATA.fullmatch(uri)
    if found is None:
        return None
    kind = found[1].lower().replace("image/jpg", "image/jpeg")
    data = unquote_to_bytes(found[3])
    if "base64" in found[2].lower():
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            return None
    if kind == "image/svg+xml":
        try:
            return svg_png(data), "image/png"
        except MessageError:
            return None
    return (data, kind) if data and kind in {"image/png", "image/jpeg", "image/gif"} else None
