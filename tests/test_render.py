"""Any notebook object as mail: the form that mail shows best, with its images, its alt text and its twin."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
import warnings

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from conftest import missing
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, JSON, SVG, Image, Latex, Markdown, Math
from matplotlib import pyplot as plt
from PIL import Image as Pictures

from smtp_notebook import Attachment, AttachmentError, Message, MessageError, Template, TemplateError
from smtp_notebook.pictures import WIDTH, figure_png, formula_png, from_data_uri, size_of, svg_png
from smtp_notebook.render import Fragment, is_plain, render

FRAME = pd.DataFrame({"name": ["Ann", "Bo"], "seats": [3, 12]})


@pytest.fixture(params=["shell", "plain"])
def where(request):
    """Render inside IPython, and in plain Python."""
    InteractiveShell.clear_instance()
    if request.param == "shell":
        InteractiveShell.instance()
    yield request.param
    InteractiveShell.clear_instance()


@pytest.fixture
def figure():
    made, axes = plt.subplots(figsize=(6, 4))
    axes.plot([1, 2, 3])
    axes.set_title("Sales & more")
    yield made
    plt.close(made)


def image_of(fragment):
    """Return the one image of a fragment, whose cid resolves."""
    (part,) = fragment.inline
    (cid,) = re.findall(r'src="cid:([^"]+)"', fragment.html)
    assert part.content_id == cid
    return part


def shown_size(fragment):
    width, height = re.search(r'width="(\d+)" height="(\d+)"', fragment.html).groups()
    return int(width), int(height)


# ------------------------------------------------------------------------------------------- images


def test_a_figure_is_an_image_with_its_title_as_alt_text(figure, where):
    made = render(figure)
    part = image_of(made)
    assert part.type == "image/png"
    assert 'alt="Sales &amp; more"' in made.html
    assert made.text == "[Sales & more]"
    width, height = shown_size(made)
    assert 300 < width <= WIDTH
    assert abs(width / height - size_of(part.content)[0] / size_of(part.content)[1]) < 0.02


def test_axes_and_arrays_of_axes_are_their_figures(figure, where):
    assert image_of(render(figure.axes[0])).type == "image/png"
    many, grid = plt.subplots(2, 2)
    assert len(render(grid).inline) == 1
    plt.close(many)
    assert render(np.arange(3)).inline == ()
    assert "[0 1 2]" in render(np.arange(3)).text


def test_a_poster_becomes_a_picture_that_a_mail_can_hold(where):
    huge = plt.figure(figsize=(200, 150))
    huge.suptitle("Poster")
    part = image_of(render(huge))
    assert max(size_of(part.content)) < 2500
    plt.close(huge)


def test_a_photograph_is_made_as_large_as_readers_see(where):
    noise = np.random.default_rng(1).integers(0, 255, (3000, 4000, 3), dtype=np.uint8)
    photo = Pictures.fromarray(noise)
    made = render(photo)
    part = image_of(made)
    assert part.type == "image/jpeg"
    assert size_of(part.content) == (1136, 852)
    assert shown_size(made) == (568, 426)
    assert photo.size == (4000, 3000), "the object itself is not changed"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_images_of_every_mode_are_shown(mode, where):
    part = image_of(render(Pictures.new(mode, (20, 10))))
    assert size_of(part.content) == (20, 10)


def test_equal_images_are_one_part(figure, where):
    made = render([figure, figure, FRAME])
    assert len(made.inline) == 1
    assert made.html.count("<img") == 2
    assert "<table" in made.html


def test_a_jpeg_and_a_gif_have_their_size_too():
    for form, kind in (("JPEG", "image/jpeg"), ("GIF", "image/gif"), ("PNG", "image/png")):
        buffer = io.BytesIO()
        Pictures.new("RGB", (33, 44)).save(buffer, format=form, progressive=True)
        assert size_of(buffer.getvalue()) == (33, 44), kind
    assert size_of(b"\xff\xd8\xff") == (0, 0)
    assert size_of(b"\xff\xd8" + b"\xff" * 50) == (0, 0)
    assert size_of(b"GIF89a") == (0, 0)
    assert size_of(b"") == (0, 0)


SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="50"><rect width="100" height="50" fill="red"/></svg>'


def test_vector_graphics_are_drawn(where):
    made = render(SVG(SQUARE))
    part = image_of(made)
    assert part.type == "image/png"
    assert size_of(part.content) == (200, 100)
    assert Pictures.open(io.BytesIO(part.content)).convert("RGB").getpixel((50, 50)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("svg", "size"),
    {
        "a box alone": ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"/>', (80, 40)),
        "nothing": ('<svg xmlns="http://www.w3.org/2000/svg"/>', (600, 300)),
        "points": ('<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"/>', (192, 96)),
        "huge": ('<svg xmlns="http://www.w3.org/2000/svg" width="200000" height="100000"/>', (1136, 568)),
        "endlessly high": ('<svg xmlns="http://www.w3.org/2000/svg" width="10" height="1e7"/>', (1, 8000)),
    }.values(),
)
def test_vector_graphics_have_a_size_that_a_mail_can_hold(svg, size):
    from smtp_notebook.pictures import svg_png

    assert size_of(svg_png(svg)) == size


def test_vector_graphics_load_nothing_and_run_nothing(tmp_path):
    from smtp_notebook.pictures import svg_png

    secret = tmp_path / "secret.png"
    Pictures.new("RGB", (100, 100), "green").save(secret)
    inside = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink" width="100" height="100">{}</svg>'
    for piece in (
        f'<image x:href="{secret}" width="100" height="100"/>',
        f'<image href="file://{secret}" width="100" height="100"/>',
        "<script>x()</script><foreignObject><p>x</p></foreignObject>",
        '<image href="http://127.0.0.1:9/x.png" width="1" height="1"/>',
    ):
        drawn = Pictures.open(io.BytesIO(svg_png(inside.format(piece)))).convert("RGBA")
        assert drawn.getextrema()[3] == (0, 0), "nothing was drawn"
    bomb = (
        "<!DOCTYPE s [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY a{i} '&a{i - 1};&a{i - 1};&a{i - 1};&a{i - 1};'>" for i in range(1, 30))
        + "]>"
        + inside.format("<text>&a29;</text>")
    )
    with pytest.raises(MessageError):
        svg_png(bomb)
    with pytest.raises(MessageError, match="cannot be drawn"):
        svg_png("<svg")


# --------------------------------------------------------------------------------------------- text


def test_a_frame_is_a_table_with_an_aligned_twin(where):
    made = render(FRAME)
    assert made.text.splitlines()[2] == "Ann       3"
    assert "<td>Ann</td>" in made.html
    assert made.block


def test_html_is_cleaned_and_its_images_become_parts(where):
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8)).save(buffer, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    made = render(
        HTML(f'<style>b{{color:red}}</style><b onclick="x()">a</b><script>x()</script><img src="{uri}">')
    )
    assert '<b style="color: red' in made.html
    assert "script" not in made.html
    assert "onclick" not in made.html
    assert image_of(made).content == buffer.getvalue()
    assert made.text.startswith("a")


@pytest.mark.parametrize(
    ("uri", "found"),
    {
        "no image": ("data:text/html,x", None),
        "not base64": ("data:image/png;base64,???", None),
        "empty": ("data:image/png;base64,", None),
        "a type that mail does not show": ("data:image/webp;base64,AAAA", None),
        "percent signs": ("data:image/gif,GIF89a%01", (b"GIF89a\x01", "image/gif")),
        "a name of old": ("data:image/jpg;base64,/9g=", (b"\xff\xd8", "image/jpeg")),
    }.values(),
)
def test_an_image_in_a_uri_is_read_or_left_out(uri, found):
    assert from_data_uri(uri) == found


def test_markdown_and_json_and_formulas_are_rendered(where):
    assert "<strong>a</strong>" in render(Markdown("**a** <script>")).html
    assert "<script>" not in render(Markdown("**a** <script>")).html
    assert render(Markdown("**a**")).text == "**a**"
    assert render(JSON({"a": [1]})).text == '{\n  "a": [\n    1\n  ]\n}'
    assert render({"a": 1}).text == '{\n  "a": 1\n}'
    formula = render(Math(r"\frac{a}{b}"))
    assert image_of(formula).type == "image/png"
    assert r"\frac{a}{b}" in formula.text
    # What mathtext does not know is shown as it was written.
    assert r"\begin{matrix}" in render(Latex(r"$\begin{matrix}a\end{matrix}$")).text
    assert formula_png("$x") is None or size_of(formula_png("$x"))


def test_a_list_shows_each_of_its_things(where, figure):
    made = render([FRAME, "words <b>", figure])
    assert "<table" in made.html
    assert "<p>words &lt;b&gt;</p>" in made.html
    assert len(made.inline) == 1
    assert render([1, "a", None]).text == "1, a, None"
    assert render([]).text == ""


def test_an_image_says_how_wide_it_is(where):
    buffer = io.BytesIO()
    Pictures.new("RGB", (400, 200)).save(buffer, format="PNG")
    made = render(Image(buffer.getvalue(), width=100, alt="A chart"))
    assert shown_size(made) == (100, 50)
    if where == "shell":
        assert 'alt="A chart"' in made.html


# -------------------------------------------------------------------------------------- what fails


class Shows:
    """An object with displays that a test makes up."""

    def __init__(self, **displays):
        self.displays = displays

    def __repr__(self):
        return "<an object>"

    def _show(self, name):
        found = self.displays.get(name)
        if isinstance(found, Exception):
            raise found
        return found

    def _repr_html_(self):
        return self._show("html")

    def _repr_png_(self):
        return self._show("png")

    def _repr_mimebundle_(self, include=None, exclude=None):  # noqa: ARG002 - IPython gives them
        return self._show("bundle")


@pytest.mark.parametrize(
    "value",
    [
        Shows(html=ValueError("no")),
        Shows(),
        Shows(html=""),
        Shows(html="<script>x()</script>"),
        Shows(html=RuntimeError("a"), png=RuntimeError("b"), bundle=RuntimeError("c")),
    ],
)
def test_a_display_that_fails_or_shows_nothing_leaves_what_the_object_prints(value, where, capsys):
    assert render(value).text == "<an object>"
    assert render(value).html == "&lt;an object&gt;"


def test_an_object_that_cannot_even_print_itself_is_named(where):
    class Broken:
        def _repr_html_(self):
            return None

        def __str__(self):
            raise ValueError("no")

        __repr__ = __str__

    assert "Broken" in render(Broken()).text


def test_a_widget_is_refused_with_what_to_do(where):
    import ipywidgets

    with pytest.raises(MessageError) as caught:
        render(ipywidgets.IntSlider(3))
    assert "JavaScript" in caught.value.cause
    assert "widget.value" in caught.value.fix
    for bundle in ({"application/vnd.jupyter.widget-view+json": {}}, {"application/javascript": "x()"}):
        with pytest.raises(MessageError, match="JavaScript"):
            render(Shows(bundle={**bundle, "text/plain": "x"}))


def test_an_object_that_displays_itself_is_asked_to_and_shows_nothing_in_the_notebook(where, capsys):
    from IPython.display import display

    class Selfish:
        def _ipython_display_(self):
            display(HTML("<b>mine</b>"))

    assert not is_plain(Selfish())
    if where == "shell":
        assert "<b>mine</b>" in render(Selfish()).html
        assert capsys.readouterr().out == ""


def test_html_of_a_page_is_refused_as_too_much(where):
    with pytest.raises(MessageError, match="MB"):
        render(Shows(html="<p>" + "x" * 9_000_000))
    with pytest.raises(MessageError, match="deeper"):
        render(Shows(html="<div>" * 5000))


def test_a_display_that_takes_for_ever_can_be_interrupted():
    code = """
import os, signal, threading, time
from smtp_notebook.render import render
class Endless:
    def _repr_html_(self):
        threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        while True:
            pass
try:
    render(Endless())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interrupted\n"


# ---------------------------------------------------------------------------------- other libraries


def test_nothing_is_imported_to_ask():
    code = (
        "import sys; from smtp_notebook.render import render, is_plain; is_plain(object()); render([object()]); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'pandas','numpy','matplotlib','PIL','polars','pyarrow','IPython','ipywidgets','lxml','css_inline'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_another_package_brings_its_own_renderer(tmp_path, where):
    (tmp_path / "chartlib.py").write_text(
        "class Chart:\n    def __init__(self, kind): self.kind = kind\n"
        "class Sub(Chart): pass\n"
        "def rendered(chart):\n"
        "    from smtp_notebook.render import Fragment\n"
        "    return {'f': Fragment('<b>f</b>', 'f'), 'h': '<i onclick=x()>h</i>', 'n': None, 'x': 3}[chart.kind]\n"
    )
    info = tmp_path / "chartlib-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chartlib\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[smtp_notebook.renderers]\nchartlib = chartlib:rendered\n")
    code = """
import chartlib
from smtp_notebook.render import render, is_plain
assert not is_plain(chartlib.Chart("f"))
assert render(chartlib.Sub("f")).html == "<b>f</b>"
assert render(chartlib.Chart("h")).html == "<i>h</i>"
assert "Chart object" in render(chartlib.Chart("n")).text
try:
    render(chartlib.Chart("x"))
except Exception as error:
    assert "gave a int" in str(error), error
print("good")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.stdout == "good\n", done.stderr


def test_a_styled_frame_keeps_its_colours(where):
    styled = FRAME.style.highlight_max(subset=["seats"], color="#ffee00").hide(axis="index")
    made = render(styled)
    assert re.search(r"<td[^>]*background-color: #ffee00[^>]*>12</td>", made.html)
    assert "<style" not in made.html
    assert 'id="T_' not in made.html
    assert made.text.splitlines()[-1].split() == ["Bo", "12"]
    hostile = pd.DataFrame({"a": ["<script>x()</script>", '<img src=x onerror="x()">']}).style
    assert not re.search("<script|onerror", render(hostile).html)


def test_a_great_table_is_shown_as_it_looks(where):
    import great_tables

    made = render(great_tables.GT(FRAME).tab_header(title="Seats"))
    assert "Seats" in made.text
    assert "<style" not in made.html
    assert "Ann" in made.html
    assert "12" in made.text


def test_an_altair_chart_is_drawn_offline(where):
    import altair

    chart = altair.Chart(FRAME, title="Seats").mark_bar().encode(x="name", y="seats")
    made = render(chart)
    assert image_of(made).type == "image/png"
    assert made.text == "[Seats]"


def test_a_seaborn_grid_and_a_plotnine_plot_are_images(where):
    import plotnine
    import seaborn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = seaborn.relplot(FRAME, x="name", y="seats")
        grid.figure.suptitle("Grid")
        assert render(grid).text == "[Grid]"
        plot = (
            plotnine.ggplot(FRAME, plotnine.aes("name", "seats"))
            + plotnine.geom_col()
            + plotnine.labs(title="Plot")
        )
        made = render(plot)
    assert made.text == "[Plot]"
    assert shown_size(made)[0] <= WIDTH
    plt.close("all")


def test_a_plotly_figure_is_drawn_by_the_browser(where):
    import plotly.graph_objects as go

    made = render(go.Figure(go.Bar(x=["a"], y=[1]), layout={"title": {"text": "<b>Bars</b>"}}))
    assert image_of(made).type == "image/png"
    assert made.text == "[Bars]"


def test_a_bokeh_plot_is_drawn_where_a_browser_has_a_driver(where):
    from bokeh.plotting import figure as bokeh_figure

    if shutil.which("chromedriver") is None:
        missing("no driver of Chromium here: apt install chromium-driver")
    plot = bokeh_figure(title="Leads", width=400, height=200)
    plot.line([1, 2], [1, 3])
    made = render(plot)
    assert made.text == "[Leads]"
    assert shown_size(made) == (400, 200)
    assert size_of(image_of(made).content) == (800, 400)
    assert plot.toolbar_location == "right", "the plot itself is as it was"


def test_without_what_draws_it_a_chart_is_refused_with_what_to_install(where, monkeypatch):
    import altair

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MessageError, match="vl-convert-python"):
        render(altair.Chart(FRAME).mark_bar())
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MessageError, match=r"smtp_notebook\[svg\]"):
        render(SVG(SQUARE))


@pytest.mark.parametrize(
    ("package", "made"),
    [
        ("kaleido", "import plotly.graph_objects as go; chart = go.Figure()"),
        ("selenium", "from bokeh.plotting import figure; chart = figure(title='x')"),
    ],
)
def test_a_chart_without_the_package_that_draws_it_is_refused_with_its_name(package, made):
    code = f"""
import sys
sys.modules["{package}"] = None
{made}
from smtp_notebook.render import render
try:
    render(chart)
except Exception as error:
    print(error.fix)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"pip install {package}"), done.stderr


# ------------------------------------------------------------------------------- where it stands


def test_any_object_stands_in_a_text_as_a_body_and_as_an_attachment(where, figure):
    message = Template("Before {{ figure }} after\n\n{{ frame }}").fill(
        values={"figure": figure, "frame": FRAME}
    )
    assert len(message.inline) == 1
    assert "<table" in message.html
    assert "name  seats" in message.text
    assert "[Sales & more]" in message.text
    assert len(Template(body=figure).fill().inline) == 1
    assert Attachment(figure).type == "image/png"
    with pytest.raises(TemplateError, match="cannot stand in a header"):
        Template("x", subject="{{ figure }}").fill(values={"figure": figure})
    assert isinstance(message, Message)
    assert isinstance(render(figure), Fragment)


# ---------------------------------------------------------------------- objects that are odd, or mean to be


def like(**displays):
    """Return an object that answers each display with what it is given."""
    return type("Odd", (), {k: (lambda _, _v=v, **__: _v) for k, v in displays.items()})()


class Everything:
    """Has whatever attribute it is asked for."""

    def __getattr__(self, name):
        return lambda *_, **__: Everything()

    def __str__(self):
        return "everything"


class Raising:
    @property
    def _repr_html_(self):
        raise RuntimeError

    def __str__(self):
        return "raising"


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "given", [None, (), ["a"], "text", 5, ({},), ({}, None), ({"text/html": "<b>x</b>"}, ["a"]), ({}, {}, {})]
)
def test_a_display_that_gives_what_none_should_is_no_crash(given):
    InteractiveShell.clear_instance()
    assert render(like(_repr_mimebundle_=given, __str__="shown")).text in {"shown", "x"}


def test_objects_that_answer_everything_or_raise_are_printed():
    InteractiveShell.clear_instance()
    assert render(Everything()).text == "everything"
    assert render(Raising()).text == "raising"
    assert render(Unprintable()).text == "<Unprintable>"
    assert render([Unprintable(), 1]).text == "<Unprintable>, 1"
    assert "<Unprintable>" in render({"a": Unprintable()}).text


def test_what_a_display_gives_may_be_bytes_or_lines():
    InteractiveShell.clear_instance()
    assert render(like(_repr_html_=b"<b>x</b>")).text == "x"
    assert render(like(_repr_html_=["<b>x", "y</b>"])).text == "xy"
    png = base64.b64decode("iVBORw0KGgo=")
    assert image_of(render(like(_repr_png_=bytearray(png)))).content == png
    with pytest.raises(MessageError, match="cannot be shown"):
        render(like(_repr_png_="not base64!"))


def test_what_contains_itself_is_said_or_shown_and_no_overflow():
    inside = [1]
    inside.append(inside)
    with pytest.raises(MessageError, match="contains itself"):
        render(inside)
    endless = {"a": 1}
    endless["b"] = endless
    assert "Recursion" in render(endless).text
    assert "(1, 2)" in render({(1, 2): 3}).text


def test_what_cannot_be_drawn_is_the_rows_mistake_with_its_name_and_line():
    broken, axes = plt.subplots()
    axes.set_title("$\\frac{$")
    with pytest.raises(TemplateError, match=r"line 2: 'chart': The Figure cannot be shown: ValueError"):
        Template("Hi\n{{ chart }}", to="a@example.com").fill({"chart": broken})
    plt.close(broken)


def test_a_part_of_a_figure_is_its_figure_and_bars_too():
    whole = plt.figure(figsize=(3, 2))
    left, _ = whole.subfigures(1, 2)
    axes = left.subplots()
    expected = image_of(render(whole)).content
    assert image_of(render(left)).content == expected
    assert image_of(render(axes)).content == expected
    bars = axes.bar([0], [1])
    assert image_of(render(bars)).content == image_of(render(whole)).content
    assert axes.bar([], []) is not None
    axes.remove()
    with pytest.raises(MessageError, match="no figure"):
        render(axes)
    plt.close(whole)


def test_a_set_is_printed_in_one_order():
    assert render({3, 1, 2}).text == "1, 2, 3"
    assert render(frozenset(["b", "a", 1])).text == "1, a, b"


def test_a_photograph_stands_as_its_camera_was_held():
    photo = Pictures.new("RGB", (40, 20))
    exif = photo.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    assert size_of(buffer.getvalue()) == (20, 40), "which is what browsers show"
    assert size_of(image_of(render(Pictures.open(buffer))).content) == (20, 40)
    for cut in range(len(buffer.getvalue())):
        size_of(buffer.getvalue()[:cut])
    little = (
        b"\xff\xd8\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0" + b"\0" * 4
    )
    assert size_of(little + b"\xff\xc0\x00\x11\x08\x00\x14\x00\x28") == (20, 40)


def test_sixteen_bits_of_grey_keep_their_greys():
    grey = Pictures.fromarray(np.linspace(0, 65535, 256).astype("uint16").reshape(16, 16))
    shown = Pictures.open(io.BytesIO(image_of(render(grey)).content))
    assert shown.getextrema() == (0, 255)
    assert 120 < np.asarray(shown).mean() < 136


DEFINED = {
    "masks": '<mask id="a{next}" mask="url(#a{n})"><rect width="9" height="9"/></mask>',
    "patterns": '<pattern id="a{next}" width="5" height="5"><rect fill="url( \'#a{n}\' )"/></pattern>',
    "uses": '<g id="a{next}"><g><use href="#a{n}"/></g></g>',
    "a style sheet": '<style>.c{next}{{mask:url(#a{n})}}</style><mask id="a{next}" class="c{next}"><rect width="9" height="9"/></mask>',
}


@pytest.mark.parametrize("element", DEFINED.values(), ids=DEFINED)
def test_a_drawing_whose_elements_refer_to_each_other_without_end_is_refused(element):
    """Drawn, it would end the process: the libraries follow references recursively."""

    def svg(count):
        chain = "".join(element.format(n=n, next=n + 1) for n in range(count))
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><defs><g id="a0"/>{chain}</defs><use href="#a{count}"/></svg>'

    assert size_of(svg_png(svg(8))) == (18, 18)
    with pytest.raises(MessageError, match="refer"):
        svg_png(svg(20_000))


def test_a_drawing_that_links_to_itself_is_drawn():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" id="top" width="9" height="9"><a href="#top"><text>up</text></a></svg>'
    assert size_of(svg_png(svg)) == (18, 18)


@pytest.mark.parametrize("layout", [None, "tight", "constrained", "compressed"])
def test_a_figure_is_the_same_picture_however_often_it_is_drawn(layout):
    def drawn():
        made, grid = plt.subplots(2, 2, layout=layout, figsize=(6, 5))
        for axes in grid.flat:
            axes.plot([1, 1000, 3])
            axes.set_ylabel("a long label")
            axes.set_title("and a title")
        made.colorbar(grid[0, 0].imshow(np.eye(3)), ax=grid[0, 0])
        made.suptitle("All")
        return made

    figure = drawn()
    first = figure_png(figure)
    assert [figure_png(figure) for _ in range(3)] == [first] * 3
    figure.axes[0].set_title("another")
    assert figure_png(figure) != first
    plain = io.BytesIO()
    other = drawn()
    other.savefig(plain, format="png", dpi=144, bbox_inches="tight")
    assert size_of(first) == size_of(plain.getvalue()), "and it is laid out"
    plt.close("all")


def test_a_picture_that_lies_about_its_size_makes_no_letter_of_a_mile():
    InteractiveShell.clear_instance()
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1).to_bytes(4) + (10**9).to_bytes(4)
    assert "height=" not in render(like(_repr_png_=header)).html


@pytest.mark.parametrize(
    ("make", "name", "begins"),
    {
        "an altair chart": ("altair", None, b"\x89PNG"),
        "an altair chart that moves": ("altair", "a.html", b"<!DOCTYPE html>"),
        "a plotnine plot": ("plotnine", None, b"\x89PNG"),
        "a seaborn grid": ("seaborn", "g.png", b"\x89PNG"),
        "a bokeh plot that moves": ("bokeh", "b.html", b"<!DOCTYPE html>"),
        "a plotly figure that moves": ("plotly", "p.html", b"<!DOCTYPE html>"),
        "Markdown": ("markdown", None, b"**a**"),
        "a formula": ("formula", None, b"$"),
        "a dict": ("dict", None, b"{"),
        "a list": ("list", "l.json", b"["),
    }.values(),
)
def test_what_a_notebook_shows_can_be_attached(make, name, begins):
    import altair
    import plotly.graph_objects as go
    import plotnine
    import seaborn
    from bokeh.plotting import figure as bokeh_figure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {
            "altair": lambda: altair.Chart(FRAME).mark_bar().encode(x="name"),
            "plotnine": lambda: plotnine.ggplot(FRAME, plotnine.aes("name", "seats")) + plotnine.geom_col(),
            "seaborn": lambda: seaborn.relplot(FRAME, x="name", y="seats"),
            "bokeh": lambda: bokeh_figure(title="x"),
            "plotly": lambda: go.Figure(go.Bar(y=[1])),
            "markdown": lambda: Markdown("**a**"),
            "formula": lambda: Math("x"),
            "dict": lambda: {"a": 1},
            "list": lambda: [1],
        }[make]()
        file = Attachment(made, name)
    plt.close("all")
    assert file.content.lstrip().lower().startswith(begins.lower())
    assert not re.search(rb"<script[^>]+src=[\"']https?:", file.content), "a page runs without a network"


def test_what_is_no_json_is_no_attachment():
    looped = []
    looped.append(looped)
    for value in ({"a": object()}, looped):
        with pytest.raises(AttachmentError, match="JSON"):
            Attachment(value)


def test_a_poster_is_attached_at_a_size_that_memory_holds():
    width, height = size_of(Attachment(plt.figure(figsize=(200, 150))).content)
    assert width * height < 45e6
    plt.close("all")
