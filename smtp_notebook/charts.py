"""Charts whose display is JavaScript, drawn as an image, or written as a page that runs in a browser by itself.

Mail programs run no scripts. plotly, bokeh, altair and whatever speaks Vega draw themselves by what each of them has
for that; a page holds the library's script, so that it needs no network.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from smtp_notebook.outcome import MessageError

__all__ = ["bokeh_picture", "chart_file", "loaded", "plotly_png", "plotnine_png", "vega_png"]

_ATTACH = "Attach it as HTML instead: Attachment(…, 'page.html')."
_DPI = 144


def loaded(module: str, *names: str) -> Any:
    """Return types of a module, as `isinstance` takes them, if that is loaded; nothing is imported to ask."""
    found = sys.modules.get(module)
    return tuple(t for n in names if isinstance(t := getattr(found, n, None), type))


def chart_file(value: Any, suffix: str) -> tuple[bytes, str] | None:
    """Return a chart as a file, and a name for it; None for what is no such chart, or has no such form.

    Args:
        value: Anything.
        suffix: ``.png``, ``.html``, or "" for what mail programs show, which is the first.

    Raises:
        MessageError: It cannot be drawn; says what to install.
    """
    form = suffix or ".png"
    for module, names, forms in _CHARTS:
        if form in forms and isinstance(value, loaded(module, *names)):
            return forms[form](value), f"chart{form}"
    return None


def _failed(name: str, error: Exception, fix: str) -> MessageError:
    why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return MessageError(f"The {name} cannot be drawn as an image: {why}.", f"{fix} {_ATTACH}".strip())


def plotly_png(figure: Any) -> bytes:
    """Return a plotly figure as a PNG of twice its size.

    Raises:
        MessageError: kaleido or a browser is missing.
    """
    try:
        return bytes(figure.to_image(format="png", scale=2))
    except Exception as error:
        raise _failed("plotly figure", error, "pip install kaleido, and have Chrome or Chromium.") from error


def _plotly_page(figure: Any) -> bytes:
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page.encode()


def vega_png(spec: Any, kind: str = "vega-lite") -> bytes:
    """Return a Vega (``vega``) or Vega-Lite specification as a PNG of twice its size, drawn offline.

    Raises:
        MessageError: vl-convert is missing, or the specification has a mistake.
    """
    convert = _vl_convert()
    draw = convert.vegalite_to_png if kind == "vega-lite" else convert.vega_to_png
    try:
        return bytes(draw(spec, scale=2))
    except ValueError as error:
        raise _failed("chart", error, "") from None


def _vega_page(chart: Any) -> bytes:
    page: str = _vl_convert().vegalite_to_html(chart.to_dict(), bundle=True)
    return page.encode()


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ImportError:
        cause = "A Vega chart shows itself with JavaScript, which mail programs do not run."
        raise MessageError(cause, "pip install vl-convert-python draws it.") from None
    return vl_convert


def bokeh_picture(model: Any) -> Any:
    """Return a bokeh plot as a PIL image of twice its size, taken by a browser without a window.

    Raises:
        MessageError: selenium, a browser or its driver is missing.
    """
    try:
        from bokeh.io.export import get_screenshot_as_png

        with _without_tools(model):
            return get_screenshot_as_png(model, scale_factor=2)
    except Exception as error:
        needs = "pip install selenium, and have a browser with its driver (as root, BOKEH_IN_DOCKER=1)."
        raise _failed("bokeh plot", error, needs) from error


def _bokeh_png(model: Any) -> bytes:
    buffer = io.BytesIO()
    bokeh_picture(model).save(buffer, format="PNG")
    return buffer.getvalue()


def _bokeh_page(model: Any) -> bytes:
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    page: str = file_html(model, INLINE)
    return page.encode()


@contextlib.contextmanager
def _without_tools(model: Any) -> Iterator[None]:
    """Hide a plot's buttons, which a picture could not be clicked at."""
    place = getattr(model, "toolbar_location", None)
    try:
        if place is not None:
            model.toolbar_location = None
        yield
    finally:
        if place is not None:
            model.toolbar_location = place


def plotnine_png(plot: Any) -> bytes:
    """Return a plotnine plot as a PNG."""
    buffer = io.BytesIO()
    plot.save(buffer, format="png", dpi=_DPI, verbose=False)
    return buffer.getvalue()


def _grid_png(grid: Any) -> bytes:
    buffer = io.BytesIO()
    grid.figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
    return buffer.getvalue()


_CHARTS: tuple[tuple[str, tuple[str, ...], dict[str, Callable[[Any], bytes]]], ...] = (
    ("plotly.basedatatypes", ("BaseFigure",), {".png": plotly_png, ".html": _plotly_page}),
    ("altair", ("TopLevelMixin",), {".png": lambda chart: vega_png(chart.to_dict()), ".html": _vega_page}),
    ("bokeh.model", ("Model",), {".png": _bokeh_png, ".html": _bokeh_page}),
    ("plotnine", ("ggplot",), {".png": plotnine_png}),
    ("seaborn.axisgrid", ("Grid",), {".png": _grid_png}),
)
