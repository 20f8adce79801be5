"""A notebook as pages: read from its file, and written as pieces of a mail, as one HTML file or as it is.

Its text is Markdown as Jupyter reads it, its outputs are bounded and shown as those of a recorded cell are.
What is tagged ``remove-cell``, ``remove-input``, ``remove-output``, ``hide-cell``, ``hide-input`` or
``hide-output`` stays out (https://nbconvert.readthedocs.io/en/latest/removing_cells.html and
https://jupyterbook.org/en/stable/interactive/hiding.html; a mail cannot unfold what is hidden).
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import html
import importlib
import itertools
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from smtp_notebook.attachments import Attachment, inside
from smtp_notebook.bodies import first_heading, html_to_text, notebook_to_html
from smtp_notebook.letters import fragment, styled
from smtp_notebook.markup import Kind, attributes, tokens
from smtp_notebook.outcome import MailError, MessageError
from smtp_notebook.pictures import (
    WIDTH,
    Picture,
    formula_png,
    from_data_uri,
    half_of,
    size_of,
    svg_png,
)
from smtp_notebook.pieces import as_piece, fit, note, one_line
from smtp_notebook.recorder import MAX_ONE, MAX_SIZE, Printed, Recording, Shown
from smtp_notebook.render import Fragment, merged_images
from smtp_notebook.safe_html import clean_html

__all__ = ["QUIET", "Book", "html_file", "letter", "needed", "notebook_file", "read"]

#: Where libraries say what nobody asked for: what a notebook does must not appear in the one that sends it.
QUIET = logging.getLogger("smtp_notebook.quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

_MARKDOWN, _CODE = "markdown", "code"
_OLD_FORMAT = 4
#: The first version 4 of the format whose cells have ids (JEP 62).
_WITH_IDS = 5
_LONGEST_TITLE = 200
_LONGEST_NAME = 80


def needed(module: str, what: str) -> Any:
    """Return an optional module.

    Raises:
        MessageError: It is not installed, and what installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        cause = f"{what} needs {error.name or name}, which is not installed."
        raise MessageError(cause, "pip install 'smtp_notebook[lab]'.") from None


# ---------------------------------------------------------------------------------------------- a book


@dataclass(frozen=True, slots=True)
class Book:
    """A notebook.

    Attributes:
        node: What nbformat made of it, version 4. Nobody changes it.
        name: Its file's name without the suffix.
        folder: Where its own paths begin.
        content: The file's octets; None where it is not as a file has it.
    """

    node: Any = field(repr=False)
    name: str
    folder: Path
    content: bytes | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """The first heading that the mail shows, else the file's name."""
        texts = (_source(c) for c in self.node.cells if c.cell_type == _MARKDOWN and not _gone(c))
        found = next(filter(None, map(first_heading, texts)), "")
        return one_line(found, _LONGEST_TITLE) or self.name

    @property
    def has_run(self) -> bool:
        """Whether there is something to show: an output, a cell that was run, or no code at all."""
        code = [c for c in self.node.cells if c.cell_type == _CODE and _source(c).strip()]
        return not code or any(c.get("outputs") or c.get("execution_count") for c in code)

    @property
    def language(self) -> str:
        """The language of its code, in lower case; Python where it does not say."""
        about = self.node.metadata
        named = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name")
        return str(named or "python").lower()

    @property
    def kernel(self) -> str:
        """The kernel that it names, or ""."""
        return str(self.node.metadata.get("kernelspec", {}).get("name") or "")

    @property
    def fingerprint(self) -> str:
        """A hash of what its author wrote: not of outputs, counts and what tools keep beside."""
        state = hashlib.sha256()
        for cell in self.node.cells:
            written = [cell.cell_type, _source(cell), sorted(_tags(cell)), cell.get("attachments")]
            state.update(json.dumps(written, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        return state.hexdigest()

    def with_node(self, node: Any) -> Book:
        """Return the book as it is after a run."""
        return Book(node, self.name, self.folder)


def read(source: Any) -> Book:
    """Return the notebook at a path, or the given NotebookNode as a book in the working folder.

    Raises:
        AttachmentError: There is no such file.
        MessageError: It is no notebook, or nbformat is not installed.
    """
    if isinstance(source, Mapping):
        return Book(_parsed(json.dumps(source), "The notebook"), "notebook", Path.cwd())
    if not isinstance(source, str | Path):
        cause = f"A {type(source).__name__} is no notebook."
        raise MessageError(cause, "Give the path of an .ipynb file, or a NotebookNode.")
    path = Path(source).expanduser()
    content = Attachment.from_path(path).content
    return Book(_parsed(content, path.name), path.stem, path.absolute().parent, content)


def _parsed(text: str | bytes, what: str) -> Any:
    nbformat = needed("nbformat", "Reading a notebook")
    fix = "Give the path of an .ipynb file."
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError(f"{what} is no notebook: it is not JSON.", fix) from None
    version = data.get("nbformat") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise MessageError(f"{what} is no notebook: it names no version of the format.", fix)
    try:
        with warnings.catch_warnings():
            # Missing ids are given here, and the person who mails a notebook cannot mend its format.
            warnings.simplefilter("ignore")
            if version == _OLD_FORMAT:
                data = _with_ids(data)
            node = nbformat.reads(json.dumps(data), as_version=_OLD_FORMAT)
            return node if version == _OLD_FORMAT else nbformat.from_dict(_with_ids(node))
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}")
        raise MessageError(f"{what} is no notebook that can be read: {why}.", fix) from error


def _with_ids(data: Any) -> Any:
    """Return a notebook of version 4 each of whose cells has an id: the same each time that it is read."""
    cells = [
        {"id": f"cell-{n}", **cell, "metadata": cell.get("metadata") or {}}
        for n, cell in enumerate(data["cells"])
    ]
    if len({c["id"] for c in cells}) < len(cells) or data.get("nbformat_minor", 0) < _WITH_IDS:
        cells = [{**cell, "id": f"cell-{n}"} for n, cell in enumerate(cells)]
    return {**data, "cells": cells, "nbformat_minor": max(_WITH_IDS, data.get("nbformat_minor", 0))}


# --------------------------------------------------------------------------------------- what is shown


def _source(cell: Any) -> str:
    return str(cell.get("source") or "")


def _tags(cell: Any) -> frozenset[str]:
    """Return a cell's or an output's tags, in the spelling of Jupyter Book; nbconvert's manual has underscores."""
    found = cell.get("metadata", {}).get("tags") or []
    return frozenset(str(tag).replace("_", "-") for tag in found)


_NO_CELL = frozenset({"remove-cell", "hide-cell"})
_NO_SOURCE = frozenset({"remove-input", "hide-input"})
_NO_OUTPUT = frozenset({"remove-output", "hide-output"})


def _gone(cell: Any) -> bool:
    return bool(_tags(cell) & _NO_CELL)


def _shows_source(cell: Any) -> bool:
    hidden = cell.get("metadata", {}).get("jupyter", {}).get("source_hidden")
    return not (_tags(cell) & _NO_SOURCE or hidden) and bool(_source(cell).strip())


def letter(book: Book, *, code: bool = False, before: tuple[str, ...] = ()) -> Fragment:
    """Return a notebook as the inside of a mail.

    Args:
        book: The notebook.
        code: Whether each code cell's source is shown above its outputs.
        before: Lines above everything else.

    Of what all cells print and show the newest is kept, as `Recording` bounds it; images in the text are
    kept up to as much again.
    """
    recording = Recording()
    for number, cell in enumerate(book.node.cells):
        if cell.cell_type == _CODE and not _gone(cell):
            recording.place = number
            _hear(recording, cell, book.folder, code=code)
    heard: dict[int, list[Printed | Shown]] = {}
    for piece in recording.take():
        heard.setdefault(piece.place, []).append(piece)
    images = _Images(book.folder)
    parts = [note(line) for line in before]
    for number, cell in enumerate(book.node.cells):
        if cell.cell_type == _MARKDOWN and not _gone(cell):
            parts.append(images.markdown(_source(cell), cell.get("attachments")))
        for piece in heard.get(number, ()):
            parts += _piece(piece, images)
    parts = [fit(p) for p in parts if p.html]
    return Fragment(
        "\n".join(p.html for p in parts), "\n\n".join(p.text.strip("\n") for p in parts), merged_images(parts)
    )


def _hear(recording: Recording, cell: Any, folder: Path, *, code: bool) -> None:
    """Have a recording hear a cell as if it were running."""
    if code and _shows_source(cell):
        recording.printed("code", _source(cell))
    if _tags(cell) & _NO_OUTPUT:
        return
    for output in cell.get("outputs", ()):
        if _tags(output) & _NO_OUTPUT:
            continue
        match output.get("output_type"):
            case "stream":
                recording.printed(str(output.get("name") or "stdout"), str(output.get("text") or ""))
            case "error":
                text = "\n".join(map(str, output.get("traceback") or ()))
                recording.shown({"text/plain": text or failure_line(output)}, "failure")
            case "display_data" | "execute_result":
                recording.shown(_embedded(output.get("data") or {}, folder), about=output.get("metadata"))


def failure_line(output: Any) -> str:
    """Return how a traceback ends, of what a notebook keeps of an error."""
    return f"{output.get('ename') or 'Error'}: {output.get('evalue') or ''}".rstrip(": ")


def _embedded(data: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    shown = data.get("text/html")
    return {**data, "text/html": _with_local_images(shown, folder)} if isinstance(shown, str) else data


def _piece(piece: Printed | Shown, images: _Images) -> Iterator[Fragment]:
    """Yield a piece of a cell's output; Markdown is read as the notebook's own, its code is set off in the twin."""
    *before, shown = as_piece(piece)
    yield from before
    if isinstance(piece, Printed) and piece.stream == _CODE:
        yield Fragment(shown.html, "\n".join(f"    {line}".rstrip() for line in piece.lines))
    elif isinstance(piece, Shown) and not piece.live and set(piece.data) <= {"text/markdown", "text/plain"}:
        source = piece.data.get("text/markdown")
        yield images.markdown(str(source), None) if source else shown
    else:
        yield shown


# ------------------------------------------------------------------------------------ Markdown's images


def _replaced(document: str, make: Callable[[str, Mapping[str, str]], str | None]) -> str:
    """Return HTML with tags of images and links exchanged.

    *make* gets a tag's name, with a slash for a link's end, and its attributes; None keeps the tag.
    """
    done, out = 0, []
    for token in tokens(document):
        end = token.kind is Kind.END
        if token.name == "a" if end else token.kind is Kind.START and token.name in {"img", "a"}:
            made = make("/a" if end else token.name, attributes(token.text))
            if made is not None:
                out += [document[done : token.start], made]
                done = token.start + len(token.name) + len(token.text) + 2 + end
    return "".join([*out, document[done:]])


def _tag(name: str, found: Mapping[str, str]) -> str:
    pairs = (f'{key}="{html.escape(value)}"' for key, value in found.items())
    return f"<{' '.join([name, *pairs])}>"


_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*):|\s*//|\s*#", re.IGNORECASE)


def _is_local(src: str) -> bool:
    return bool(src.strip()) and _SCHEME.match(src) is None


def _local(src: str, folder: Path) -> bytes:
    """Return the image at a path of the notebook's own, which must not leave its folder; an SVG is drawn.

    Raises:
        MailError: It lies outside, cannot be read, or is none.
    """
    path = unquote(re.split(r"[?#]", src.strip(), maxsplit=1)[0])
    content = inside(path, folder).content
    return svg_png(content) if path.lower().endswith(".svg") else content


def _type_of(content: bytes) -> str:
    """Return the media type of a PNG, JPEG or GIF by its head, or "": no other file may pass for an image."""
    if size_of(content) == (0, 0):
        return ""
    return {b"\x89": "image/png", b"\xff": "image/jpeg"}.get(content[:1], "image/gif")


def _with_local_images(document: str, folder: Path) -> str:
    """Return HTML with each image that lies in the notebook's folder as data; others are left alone."""

    def made(name: str, found: Mapping[str, str]) -> str | None:
        src = found.get("src", "")
        if name != "img" or not _is_local(src):
            return None
        try:
            content = _local(src, folder)
        except MailError:
            return None
        kind = _type_of(content)
        if not kind or len(content) > MAX_ONE:
            return None
        return _tag(name, {**found, "src": f"data:{kind};base64,{base64.b64encode(content).decode()}"})

    return _replaced(document, made) if "<img" in document.lower() else document


_UNSHOWN = "Image not shown"


class _Images:
    """Renders a notebook's Markdown, and holds how much room its images still have.

    Images inside the notebook, or beside it, travel with the mail. One of the web becomes a link: loading it
    would tell its owner who reads the mail, and when.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = MAX_SIZE

    def markdown(self, source: str, attachments: Any) -> Fragment:
        """Return Markdown with its images and formulas."""
        math = _Math(source)
        found: list[Picture] = []
        plain = "<" not in source and "![" not in source

        link = ""

        def made(name: str, about: Mapping[str, str]) -> str | None:
            nonlocal link
            if name == "/a":
                ended, link = link, ""
                return "</span>" if ended == "span" else None
            if name == "a":
                # A link into the notebook, or to a file beside it, leads nowhere from a mail.
                near = _is_local(about.get("href", "")) or about.get("href", "#").startswith("#")
                link = "span" if near else "a"
                return "<span>" if near else None
            about = {k: math.restored(v) for k, v in about.items()}
            shown = self._shown(about, attachments, linked=link == "a")
            if isinstance(shown, Picture):
                found.append(shown)
                return shown.tag
            return shown

        try:
            clean = clean_html(_replaced(notebook_to_html(math.text), made))
        except ValueError:  # nested deeper than anybody reads: as it was written
            return Fragment(fragment(source), source)
        text = source if plain else html_to_text(math.restored_html(clean))
        looks = styled(_TABLE.sub(_in_scroll, clean))
        shown, formulas = math.drawn(looks)
        images = {p.part.content_id: p.part for p in (*found, *formulas)}
        return Fragment(shown, text, tuple(images.values()))

    def _shown(self, about: Mapping[str, str], attachments: Any, *, linked: bool) -> Picture | str:
        src = about.get("src", "").strip()
        alt = " ".join(about.get("alt", "").split())
        scheme = (_SCHEME.match(src) or ["", None])[1]
        if src.startswith("//") or (scheme or "").lower() in {"http", "https"}:
            words = html.escape(alt or "image")
            return words if linked else f'<a href="{html.escape(src)}">{words}</a>'
        try:
            content = self._content(src, attachments)
            kind = _type_of(content)
            why = "" if kind else "mail programs do not show its kind"
            if len(content) > min(MAX_ONE, self._left):
                why = f"it is too large ({len(content) / 2**20:.1f} MB)"
        except MailError as error:
            why = error.cause.rstrip(".")
        if why:
            name = alt or ("an image" if scheme == "data" else src[:_LONGEST_NAME])
            return f"<em>{html.escape(f'{_UNSHOWN}: {name} ({why})')}</em>"
        self._left -= len(content)
        return Picture.of(content, kind, alt, width=_width(about.get("width", "")), block=False)

    def _content(self, src: str, attachments: Any) -> bytes:
        """Return what an image's address names.

        Raises:
            MailError: There is nothing.
        """
        if src.startswith("data:"):
            data = from_data_uri(src)
            return data[0] if data else b""
        if not src.startswith("attachment:"):
            if not _is_local(src):
                raise MessageError("Its address is none that a mail can show.")
            return _local(src, self._folder)
        bundle = (attachments or {}).get(unquote(src.partition(":")[2])) or {}
        for kind, data in bundle.items():
            try:
                content = base64.b64decode("".join(data) if isinstance(data, list) else str(data))
            except (binascii.Error, ValueError):
                continue
            return svg_png(content) if kind == "image/svg+xml" else content
        raise MessageError("The cell has no such attachment.")


#: What stands around a table so that a wide one need not make the letter wide; lxml has closed each of them.
_TABLE = re.compile(r"<table(?=[\s>])|</table>")


def _in_scroll(found: re.Match[str]) -> str:
    return f"{found[0]}</div>" if found[0][1] == "/" else f'<div class="scroll">{found[0]}'


def _width(written: str) -> int:
    """Return the width that an image asks for, in CSS pixels; 0 where it does not."""
    found = re.fullmatch(r"\s*(\d{1,5})(?:\.\d+)?\s*(px|%)?\s*", written)
    if found is None:
        return 0
    return round(min(int(found[1]), 100) * WIDTH / 100) if found[2] == "%" else int(found[1])


# ---------------------------------------------------------------------------------------- its formulas

#: Code is left alone. A dollar is a formula's as pandoc reads it: the first with no blank after it, the last with
#: none before it and no digit after it, so that prices are none (https://pandoc.org/MANUAL.html#math).
_FORMULA = re.compile(
    r"(?P<code>^(?P<fence>```|~~~).*?(?:^(?P=fence)|\Z)|(?P<ticks>`+)(?!`).{1,5000}?(?<!`)(?P=ticks)(?!`)|\\\$)"
    r"|\$\$(?P<display>[^$]+?)\$\$"
    r"|\$(?P<inline>(?=\S)[^$\n]{1,500}?(?<=[^\s\\]))\$(?!\d)"
    r"|(?P<environment>\\begin\{(?P<name>[a-z]+\*?)\}.{1,5000}?\\end\{(?P=name)\})",
    re.DOTALL | re.MULTILINE,
)


class _Math:
    """The formulas of a Markdown text, taken out before Markdown reads it, as Jupyter does.

    Attributes:
        text: The text with a word in each formula's place.
    """

    def __init__(self, source: str) -> None:
        self._found: list[str] = []
        # The same text gives the same words, so that a mail that is made again is the same.
        self._word = f"f{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}x"
        self._token = re.compile(rf"{self._word}(\d+)x")
        self.text = _FORMULA.sub(self._take, source) if "$" in source or "\\begin{" in source else source

    def _take(self, found: re.Match[str]) -> str:
        if found["code"] is not None:
            return found[0]
        self._found.append(found[0])
        return f"{self._word}{len(self._found) - 1}x"

    def restored(self, text: str) -> str:
        """Return text with the formulas as they were written."""
        return self._token.sub(lambda m: self._found[int(m[1])], text) if self._found else text

    def restored_html(self, document: str) -> str:
        """Return HTML with the formulas as they were written."""
        return (
            self._token.sub(lambda m: html.escape(self._found[int(m[1])]), document)
            if self._found
            else document
        )

    def drawn(self, document: str) -> tuple[str, list[Picture]]:
        """Return HTML with the formulas as images, and these; one that cannot be drawn is text."""
        known: dict[str, Picture | None] = {}

        def shown(found: re.Match[str]) -> str:
            if found[1] is None:  # inside a tag, such as a link's address
                return self.restored_html(found[0])
            source = self._found[int(found[1])]
            if source not in known:
                known[source] = _drawn(source) if len(known) < _MOST_FORMULAS else None
            picture = known[source]
            return html.escape(source) if picture is None else picture.tag

        if self._found:
            document = re.sub(rf"<[^>]*>|{self._token.pattern}", shown, document)
        return document, [p for p in known.values() if p is not None]


#: So many different ones of a cell are drawn, each in some milliseconds; further ones are text.
_MOST_FORMULAS = 200


def _drawn(source: str) -> Picture | None:
    png = formula_png(source)
    if png is None:
        return None
    alt = " ".join(source.strip("$ \n").split())
    return Picture.of(png, "image/png", alt, width=half_of(png), block=False)


# --------------------------------------------------------------------------------------------- as files


def notebook_file(book: Book) -> Attachment:
    """Return the notebook itself, with all that is in it: as the file has it, or as its run left it."""
    content = book.content
    if content is None:
        content = needed("nbformat", "A notebook").writes(book.node).encode("utf-8", "surrogatepass")
    return Attachment(content, f"{book.name}.ipynb")


def html_file(book: Book, *, code: bool = False) -> Attachment:
    """Return the whole notebook as one HTML file, which shows itself without the network.

    Widgets are shown as text; require.js and MathJax are loaded only where an output or a formula needs them, for
    nbconvert has no way to embed them. Images beside the notebook are embedded.

    Args:
        book: The notebook.
        code: Whether the code is shown too.

    Raises:
        MessageError: nbconvert is not installed, or cannot write it.
    """
    exporters = needed("nbconvert.exporters", "The notebook as an HTML file")
    config = needed("traitlets.config", "The notebook as an HTML file").Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = _both(_NO_CELL)
    config.TagRemovePreprocessor.remove_input_tags = _both(_NO_SOURCE)
    config.TagRemovePreprocessor.remove_all_outputs_tags = _both(_NO_OUTPUT)
    config.TagRemovePreprocessor.remove_single_output_tags = _both(_NO_OUTPUT)
    node = copy.deepcopy(book.node)
    node.metadata.pop("widgets", None)
    offline = {} if _needs_require(node) else {"require_js_url": ""}
    offline |= {} if _needs_math(node) else {"mathjax_url": ""}
    exporter = exporters.HTMLExporter(
        config=config,
        log=QUIET,
        exclude_input=not code,
        exclude_input_prompt=not code,
        exclude_output_prompt=not code,
        **offline,
    )
    # What a random name would be: the same notebook makes the same file.
    numbers = itertools.count()
    exporter.environment.globals["uuid4"] = lambda: f"output-{next(numbers)}"
    resources = {"metadata": {"name": book.title, "path": ""}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            document, _ = exporter.from_notebook_node(node, resources)
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}").rstrip(".")
        cause = f"{book.name} cannot be written as HTML: {why}."
        raise MessageError(cause, "Send it without: attach=None.") from error
    document = _NO_SCRIPT.sub("", _with_local_images(document, book.folder))
    return Attachment(document.encode("utf-8", "replace"), f"{book.name}.html", "text/html; charset=utf-8")


_NO_SCRIPT = re.compile(r'<script src="">\s*</script>')


def _both(tags: frozenset[str]) -> set[str]:
    return {*tags, *(tag.replace("-", "_") for tag in tags)}


def _shown_texts(node: Any) -> Iterator[tuple[str, str]]:
    """Yield what a notebook shows with its media type."""
    for cell in node.cells:
        if cell.cell_type == _MARKDOWN:
            yield "text/markdown", _source(cell)
        for output in cell.get("outputs", ()):
            yield from ((kind, str(shown)) for kind, shown in (output.get("data") or {}).items())


def _needs_require(node: Any) -> bool:
    scripted = {"text/html", "application/javascript"}
    return any(kind in scripted and "require" in shown for kind, shown in _shown_texts(node))


def _needs_math(node: Any) -> bool:
    for kind, shown in _shown_texts(node):
        if kind == "text/latex" or (kind == "text/html" and _HTML_FORMULA.search(shown)):
            return True
        if kind == "text/markdown" and _Math(shown).text != shown:
            return True
    return False


_HTML_FORMULA = re.compile(r"\\\(|\\\[|\$\$")
