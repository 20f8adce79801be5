"""Any notebook object as mail: HTML, its text twin, and the images that the HTML shows.

An object is asked the way IPython's display asks it, for a mimebundle, and the form that mail shows best is taken.
So a library needs no line here; those that have one show themselves in a notebook by means that no mail program
has. Optional libraries are recognised through ``sys.modules`` and never imported to ask.

Other packages add renderers by the entry-point group ``smtp_notebook.renderers``: an entry's name is the top-level
package of the objects that it renders, its value a function of the object. It returns a `Fragment`, HTML as text
(which is cleaned), an Attachment that is an image, or None to leave the object to the rules here.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import pprint
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtp_notebook import tables
from smtp_notebook.bodies import html_to_text
from smtp_notebook.charts import bokeh_picture, loaded, plotly_png, plotnine_png, vega_png
from smtp_notebook.letters import fragment
from smtp_notebook.message import Attachment
from smtp_notebook.outcome import MailError, MessageError
from smtp_notebook.pictures import (
    Picture,
    figure_of,
    figure_png,
    formula_png,
    from_data_uri,
    half_of,
    pil_bytes,
    svg_png,
)
from smtp_notebook.rows import Differing, Rows, as_given
from smtp_notebook.safe_html import clean_html, has_content

__all__ = [
    "GROUP",
    "Fragment",
    "is_plain",
    "merged_images",
    "render",
    "render_bundle",
    "shows_itself",
]

#: The entry-point group of renderers.
GROUP = "smtp_notebook.renderers"
_IMAGES = ("image/png", "image/jpeg", "image/gif")


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
    if isinstance(value, list | tuple | set | frozenset | dict | tables.Table | Fragment | Rows):
        return False
    if tables.is_frame(value):
        return False
    kind: Any = type(value)
    if any(hasattr(kind, f"_repr_{name}_") for name in _REPRS) or hasattr(kind, "_ipython_display_"):
        return False
    return _special(value) is None and _registered(kind) is None


_REPRS = ("mimebundle", "html", "markdown", "png", "jpeg", "svg", "latex", "json")


def shows_itself(value: object) -> bool:
    """Tell whether `render` shows *value* without asking how a notebook would: a table, a figure, a chart."""
    return isinstance(value, tables.Table | Rows) or tables.is_frame(value) or _special(value) is not None


def render(value: object) -> Fragment:
    """Return *value* as mail-safe HTML with its text twin and images; a Fragment as it is.

    Raises:
        MessageError: The object only shows itself with JavaScript (a widget, an interactive chart) and nothing
            here can draw it; says what to install or do. Or drawing it fails.
    """
    try:
        return _rendered(value)
    except MailError:
        raise
    except RecursionError:
        cause = f"The {type(value).__name__} contains itself, or is nested too deep to be shown."
        raise MessageError(cause, "Print what it holds.") from None
    except Exception as error:
        why = _one_line(error).rstrip(".")
        cause = f"The {type(value).__name__} cannot be shown: {type(error).__name__}{why and ': ' + why}."
        raise MessageError(cause, "Show it in the notebook first; then print it here.") from error


def _rendered(value: object) -> Fragment:
    if isinstance(value, Fragment):
        return value
    value = as_given(value)
    if (made := _by_entry_point(value)) is not None:
        return made
    if isinstance(value, tables.Table):
        return _table(value)
    if tables.is_frame(value):
        return _table(tables.table(value))
    # Before lists: what `bar()` returns is a tuple.
    if (special := _special(value)) is not None:
        return special(value)
    if isinstance(value, dict):
        return _json(value)
    if isinstance(value, list | tuple | set | frozenset):
        return _several(value if isinstance(value, list | tuple) else _ordered(value))
    return render_bundle(*_mimebundle(value), name=type(value).__name__, otherwise=value)


def _table(shown: tables.Table) -> Fragment:
    return Fragment(shown.to_html(), shown.to_text())


def _json(value: object) -> Fragment:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=_in_json)
    except MailError:
        raise
    except (TypeError, ValueError):  # keys that are no text, or a value inside itself
        text = pprint.pformat(value)
    return _preformatted(text)


def _in_json(value: object) -> object:
    return [*value] if type(value) is Rows else _printed(value)


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Return a set's items in an order that is the same in every process."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=_printed)


def _several(values: Sequence[object]) -> Fragment:
    if all(is_plain(v) for v in values):
        return _words(", ".join(map(_printed, values)))
    parts = [_paragraph(_printed(v)) if is_plain(v) else _rendered(v) for v in values]
    return Fragment(
        "\n".join(p.html for p in parts),
        "\n\n".join(p.text for p in parts),
        merged_images(parts),
    )


def _paragraph(text: str) -> Fragment:
    return Fragment(f"<p>{html.escape(text)}</p>", text)


def _words(text: str) -> Fragment:
    return Fragment(html.escape(text), text, block=False)


def _preformatted(text: str) -> Fragment:
    # As the letter's own, whose dark colours find it by its tag.
    style = (
        "margin:0 0 16px;padding:12px;background:#f4f5f6;color:#1f2328;white-space:pre-wrap;word-wrap:break-word;"
        "font-family:Menlo,Consolas,monospace;font-size:13px;line-height:1.45"
    )
    return Fragment(f'<pre style="{style}">{html.escape(text)}</pre>', text)


def _image(content: bytes, kind: str, alt: str, width: int = 0) -> Fragment:
    picture = Picture.of(content, kind, _one_line(alt), width=width)
    return Fragment(picture.tag, f"[{picture.alt}]", (picture.part,))


def _drawn(png: bytes, alt: str) -> Fragment:
    """Return a PNG that was drawn here, at twice the size at which it is shown."""
    return _image(png, "image/png", alt, half_of(png))


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]


# ---------------------------------------------------------------------------------- other packages


@functools.cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


@functools.lru_cache(maxsize=1024)
def _registered(kind: Any) -> Callable[[Any], Any] | None:
    """Return the renderer that another package has for a type, or for what it derives from."""
    points = _entry_points()
    if points:
        for base in kind.__mro__:
            point = points.get(base.__module__.partition(".")[0])
            if point is not None:
                return point.load()  # type: ignore[no-any-return]  # whatever it is, it is called
    return None


def _by_entry_point(value: object) -> Fragment | None:
    kind: Any = type(value)
    renderer = _registered(kind)
    made = None if renderer is None else renderer(value)
    if made is None or isinstance(made, Fragment):
        return made
    if isinstance(made, str):
        return _html(made, type(value).__name__)
    if isinstance(made, Attachment) and made.type in _IMAGES:
        return _image(made.content, made.type, made.name)
    cause = f"The renderer of {type(value).__name__} gave a {type(made).__name__}."
    raise MessageError(cause, f"An entry of {GROUP} returns a Fragment, HTML, or an Attachment of an image.")


# ------------------------------------------------------------------- objects whose display does not do


def _special(value: object) -> Callable[[Any], Fragment] | None:
    """Return what renders an object whose notebook display no mail program shows."""
    for module, names, renderer in _SPECIAL:
        if module in sys.modules and isinstance(value, loaded(module, *names)):
            return renderer
    return None


def _figure(figure: Any) -> Fragment:
    return _drawn(figure_png(figure), _figure_title(figure))


def _figure_title(figure: Any) -> str:
    """Return the figure's own title: what a reader without images gets to read."""
    over_all = figure.get_suptitle() if hasattr(figure, "get_suptitle") else ""
    own = [over_all, *(axes.get_title(loc) for axes in figure.axes for loc in ("center", "left", "right"))]
    return next((str(t) for t in own if t), "Figure")


def _drawing(artist: Any) -> Fragment:
    """Return the whole figure that an artist, such as axes, is part of."""
    figure = figure_of(artist)
    if figure is None:
        cause = f"The {type(artist).__name__} is in no figure any more."
        raise MessageError(cause, "Print it before it is removed, or print the figure.")
    return _figure(figure)


def _container(drawn: Any) -> Fragment:
    return _drawing(drawn[0]) if drawn else _words("")


def _array(array: Any) -> Fragment:
    """Return axes as ``plt.subplots`` and ``frame.hist()`` give them; other arrays as text."""
    axes = loaded("matplotlib.axes", "Axes")
    found = [a for a in array.flat if isinstance(a, axes)] if axes and array.dtype == object else []
    if not found:
        return _preformatted(str(array))
    return _several(list(dict.fromkeys(map(figure_of, found))))


def _grid(grid: Any) -> Fragment:
    return _figure(grid.figure)


def _pil(image: Any) -> Fragment:
    return _image(*pil_bytes(image), str(image.info.get("Title") or image.info.get("Description") or "Image"))


def _plotnine(plot: Any) -> Fragment:
    labels = getattr(plot, "labels", None)
    return _drawn(plotnine_png(plot), str(getattr(labels, "title", "") or "Plot"))


def _plotly(figure: Any) -> Fragment:
    title = str(getattr(figure.layout.title, "text", "") or "Chart")
    return _drawn(plotly_png(figure), re.sub(r"<[^>]*>", "", title))


def _altair(chart: Any) -> Fragment:
    title = getattr(chart, "title", None)
    text = title if isinstance(title, str) else getattr(title, "text", "")
    return _drawn(vega_png(chart.to_dict()), text if isinstance(text, str) and text else "Chart")


def _bokeh(model: Any) -> Fragment:
    title = getattr(getattr(model, "title", None), "text", "") or "Plot"
    picture = bokeh_picture(model)
    return _image(*pil_bytes(picture), str(title), picture.width // 2)


def _great_table(table: Any) -> Fragment:
    # It shrinks to what the letter leaves, and its own wrapper would scroll inside of that.
    return _html(table.as_raw_html(), "Great Table")


def _styler(styler: Any) -> Fragment:
    """Return a styled frame with its colours, numbers to the right as a notebook shows them."""
    kinds = styler.data.dtypes
    right = [f".col{i}" for i, kind in enumerate(kinds) if kind.kind in "iufc"]
    looks = f"<style>{','.join(right)}{{text-align:right}}</style>" if right else ""
    return _html(looks + styler.to_html(), "Styler")


def _widget(widget: Any) -> Fragment:
    name = type(widget).__name__
    cause = f"A {name} shows itself with JavaScript, which mail programs do not run."
    fix = (
        "Print what it holds, such as {{ widget.value }}."
        if hasattr(widget, "value")
        else "Print what it holds."
    )
    raise MessageError(cause, fix)


_SPECIAL: tuple[tuple[str, tuple[str, ...], Callable[[Any], Fragment]], ...] = (
    ("matplotlib.figure", ("FigureBase",), _drawing),
    ("matplotlib.axes", ("Axes",), _drawing),
    ("matplotlib.container", ("Container",), _container),
    ("seaborn.axisgrid", ("Grid",), _grid),
    ("numpy", ("ndarray",), _array),
    ("PIL.Image", ("Image",), _pil),
    ("plotnine", ("ggplot",), _plotnine),
    ("plotly.basedatatypes", ("BaseFigure",), _plotly),
    ("altair", ("TopLevelMixin",), _altair),
    ("bokeh.model", ("Model",), _bokeh),
    ("great_tables", ("GT",), _great_table),
    ("pandas.io.formats.style", ("Styler",), _styler),
    ("ipywidgets", ("DOMWidget",), _widget),
)


# ---------------------------------------------------------------------------------------- mimebundle


def _mimebundle(value: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an object shows in a notebook, by media type, and what it says of it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if callable(getattr(type(value), "_ipython_display_", None)):
        return _displayed(value)
    if shell is not None:
        data, about = shell.display_formatter.format(value)
        return dict(data), dict(about)
    data, about = {}, {}
    for kind, mime in _OWN_REPRS.items():
        result = _asked(value, f"_repr_{kind}_")
        if result is not None:
            data[mime], about[mime] = result if _is_pair(result) else (result, {})
    bundle = _asked(value, "_repr_mimebundle_", include=None, exclude=None)
    more, said = bundle if _is_pair(bundle) else (bundle, None)
    if isinstance(more, Mapping):
        data |= more
    if isinstance(said, Mapping):
        about |= said
    return data, about


def _is_pair(result: object) -> bool:
    """Tell whether a display gave what is said of its data besides."""
    return isinstance(result, tuple) and len(result) == 2  # noqa: PLR2004 - data and metadata


def _asked(value: object, name: str, **options: Any) -> Any:
    """Return what one of an object's displays gives; one that fails gives nothing, as in a notebook."""
    if isinstance(value, type):
        return None
    try:
        # IPython's own test for objects that have every attribute they are asked for.
        if hasattr(value, "_ipython_canary_method_should_not_exist_"):
            return None
        method = getattr(value, name, None)
        return method(**options) if callable(method) else None
    except Exception:  # noqa: BLE001 - what is left is shown
        return None


def _displayed(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an object shows that displays itself: the last of what it displayed."""
    from IPython.utils.capture import capture_output

    with capture_output(stdout=False, stderr=False) as captured:
        try:
            value._ipython_display_()
        except Exception:  # noqa: BLE001 - as above
            return {"text/plain": _printed(value)}, {}
    found = [o for o in captured.outputs if o.data]
    return (dict(found[-1].data), dict(found[-1].metadata or {})) if found else ({}, {})


_OWN_REPRS = {
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "latex": "text/latex",
    "json": "application/json",
}


def render_bundle(
    data: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    *,
    name: str = "display",
    otherwise: object = "",
) -> Fragment:
    """Return a mimebundle in the form that mail shows best: an image, HTML, Markdown, LaTeX, JSON, text.

    Args:
        data: What is shown, by media type; images as bytes or base64 text.
        about: What is said of it, by media type, such as an image's width.
        name: What is shown: an image's text, and what errors call it.
        otherwise: Printed where nothing in *data* can be shown.

    Raises:
        MessageError: It has nothing that mail shows.
    """
    for mime in _IMAGES:
        if data.get(mime):
            return _image(_raw(data[mime]), mime, _alt(name, about, mime), _width(about, mime))
    if (chart := next((m for m in data if "vegalite" in m or "vega.v" in m), None)) is not None:
        return _drawn(vega_png(data[chart], "vega-lite" if "vegalite" in chart else "vega"), name)
    if svg := data.get("image/svg+xml"):
        return _drawn(
            svg_png(svg if isinstance(svg, bytes) else _text(svg)), _alt(name, about, "image/svg+xml")
        )
    scripted = any("widget" in m or "plotly" in m or "bokeh" in m or "javascript" in m for m in data)
    if data.get("text/html"):
        made = _html(_text(data["text/html"]), name)
        if has_content(made.html) and not scripted:
            return made
    if scripted:
        cause = f"A {name} shows itself with JavaScript, which mail programs do not run."
        raise MessageError(cause, "Save it as a PNG and put the image there, or attach it as HTML.")
    return _texts(data, otherwise)


def _texts(data: Mapping[str, Any], otherwise: object) -> Fragment:
    if data.get("text/markdown"):
        source = _text(data["text/markdown"])
        return Fragment(fragment(source), source)
    if data.get("text/latex"):
        return _formula(_text(data["text/latex"]))
    if "application/json" in data:
        return _json(data["application/json"])
    text = _text(data["text/plain"]) if data.get("text/plain") else _printed(otherwise)
    return _preformatted(text) if "\n" in text else _words(text)


def _formula(source: str) -> Fragment:
    png = formula_png(source)
    if png is None:
        return _preformatted(source)
    alt = _one_line(source.replace("\\displaystyle", "").strip("$ "))
    picture = Picture.of(png, "image/png", alt, width=half_of(png), block=False)
    return Fragment(picture.tag, alt, (picture.part,), block=False)


def _printed(value: object) -> str:
    if type(value) is Differing:
        value.refuse()
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object that cannot even print itself has a name
        return f"<{type(value).__name__}>"


def _alt(name: str, about: Mapping[str, Any] | None, mime: str) -> str:
    found = (about or {}).get(mime)
    alt = found.get("alt") if isinstance(found, Mapping) else None
    return str(alt) if alt else {"Figure": "Figure", "Image": "Image"}.get(name, name)


def _width(about: Mapping[str, Any] | None, mime: str) -> int:
    """Return how wide an image says that it is shown, in CSS pixels; 0 where it does not say."""
    found = (about or {}).get(mime)
    width = found.get("width") if isinstance(found, Mapping) else None
    return int(width) if isinstance(width, int | float) and 0 < width < 1e6 else 0  # noqa: PLR2004 - a number of pixels


def _html(source: str, name: str) -> Fragment:
    """Return an object's HTML, cleaned; images inside it become parts of the mail."""
    images: list[Attachment] = []

    def part(uri: str) -> str | None:
        found = from_data_uri(uri)
        if found is None:
            return None
        picture = Picture.of(*found, "")
        images.append(picture.part)
        return f"cid:{picture.part.content_id}"

    try:
        clean = clean_html(source, part)
    except ValueError as error:
        cause = f"The {name} cannot be shown in a mail: {error}."
        raise MessageError(cause, "Attach it instead, or show less of it.") from None
    return Fragment(_framed(clean), html_to_text(clean).strip(), tuple(dict.fromkeys(images)))


def _framed(clean: str) -> str:
    """Return HTML with room to scroll, and on the paper for which it chose its colours."""
    style = "overflow-x:auto;font-size:14px;line-height:1.4;" if "<table" in clean else ""
    # Text that keeps the letter's colour on a ground of its own would be light on light in a dark letter.
    style += "background:#ffffff;color:#1f2328;" if re.search(r"background|bgcolor", clean) else ""
    return f'<div style="{style}margin:0 0 16px">{clean}</div>' if style else clean


def _text(shown: Any) -> str:
    """Return what a display gave as text; notebooks save it as a list of lines."""
    if isinstance(shown, list | tuple):
        return "".join(map(_text, shown))
    return shown.decode(errors="replace") if isinstance(shown, bytes | bytearray) else _printed(shown)


def _raw(image: Any) -> bytes:
    # IPython gives a figure as base64 text and a PIL image as bytes.
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    return base64.b64decode(_text(image))


def merged_images(fragments: Iterable[Fragment]) -> tuple[Attachment, ...]:
    """Return every image once, in the order of first use."""
    seen: dict[str | None, Attachment] = {}
    for piece in fragments:
        for part in piece.inline:
            seen.setdefault(part.content_id, part)
    return tuple(seen.values())
