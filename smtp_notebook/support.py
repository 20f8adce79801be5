"""What the large mail programs do not understand of HTML and CSS. Facts alone: a table, and how to look in it.

From the data of https://www.caniemail.com/ (MIT), as of 2026-05-13; each row names its page there
(``https://www.caniemail.com/features/SLUG/``). Three rows are not on it and name `WORD` or `NO_SCRIPT`. How a
row was read:

- A program lacks what the newest tested version of it does not support. Gmail is its website, and its apps with a
  Google account; Outlook for Windows is the classic one, which shows mail with Word's engine; Outlook.com stands for
  the new Outlook too, which is that website in a window.
- Partial support counts as a lack where its note says that what people write is missing (such as negative margins,
  or ``gap`` outside columns), and not where it needs a rare case (an account of another provider in Gmail's app).
- A row without *fix* degrades without harm: square corners, no shadow, a bar instead of columns. It is here to say
  that this was looked at, and is never reported.

What somebody is unlikely to write in a mail is not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ATTRIBUTES",
    "AT_RULES",
    "CLIENTS",
    "ELEMENTS",
    "GENERATED",
    "IMAGES",
    "NESTING",
    "PROPERTIES",
    "STYLE_IN_BODY",
    "VALUES",
    "Feature",
    "clients",
]

GMAIL, OUTLOOK, OUTLOOK_COM, APPLE = "G", "O", "o", "A"
#: A mail program by its letter in the table, in the order in which they are named.
CLIENTS: Mapping[str, str] = {
    GMAIL: "Gmail",
    OUTLOOK: "Outlook for Windows",
    OUTLOOK_COM: "Outlook.com and the new Outlook",
    APPLE: "Apple Mail",
}

#: "Word 2007 HTML and CSS Rendering Capabilities in Outlook 2007" (Microsoft, aa338201): a part of HTML 4.01 without
#: form, iframe, object and script, and of CSS level 1, which has no hsl().
WORD = "aa338201"
#: No mail program runs scripts in a mail, nor loads a page into it: whoever sent it would act as who reads it.
NO_SCRIPT = "no-script"


@dataclass(frozen=True, slots=True)
class Feature:
    """One row.

    Attributes:
        name: How it is written, such as ``display: flex``.
        source: Its page on caniemail.com, or `WORD` or `NO_SCRIPT`.
        lacking: The letters of the programs that lack it.
        fix: One sentence: what to write instead; "" where it degrades without harm.
        beside: Properties, or declarations as ``name:value``, that make up for it when one of them stands,
            understood, in the same block; its own property always does.
        attribute: An attribute of the same element that makes up for it, or "".
        fallback: For an element: whether what stands inside it is shown instead.
    """

    name: str
    source: str
    lacking: str
    fix: str = ""
    beside: tuple[str, ...] = ()
    attribute: str = ""
    fallback: bool = False


def clients(letters: str) -> str:
    """Return programs by their letters as words; "" for all of them."""
    if set(CLIENTS) <= set(letters):
        return ""
    return ", ".join(name for letter, name in CLIENTS.items() if letter in letters)


_TABLE = "Put what stands side by side into the cells of a <table>."
_CELLS = "Use padding in the cells of a <table>."
_PLAIN = "Write the value out in px before it in the same block, or in its place."
_COLOUR = "Write the colour as #rrggbb, before it in the same block or in its place."
_ONLY_COLOUR = (
    "Write the colour as #rrggbb: Gmail drops all styles of an element that has this in one of them."
)
_BEHIND = "Give a background-color (or bgcolor=) too, on which the text can be read."
_HIDE = "Hide it with display:none, or leave it out."
_BACKGROUND = ("background", "background-color")
_HIDDEN = ("display:none", "mso-hide:all")
_STILL = "Show a still picture, or link to a page that moves."
_PNG = "Save it as a PNG and show that: inline=[…] and <img src=cid:…>."
_COPY = "Copy its rules into a <style> in the head."

# ------------------------------------------------------------------------------------------- properties

Rule = tuple[re.Pattern[str] | None, Feature]


def _when(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_FLEX_WAYS = "Put what stands side by side into the cells of a <table>, which have align= and valign=."
_LOGICAL = "Name the sides: margin-left, padding-top."


def _logical(of: str) -> dict[str, tuple[Rule, ...]]:
    """Return the rules for the logical sides of margin or padding."""
    sides = ("inline", "inline-start", "inline-end", "block", "block-start", "block-end")
    named = (of, *(f"{of}-{side}" for side in ("top", "right", "bottom", "left")))
    feature = Feature(f"{of}-inline and {of}-block", f"css-{of}-inline-block", "GOo", _LOGICAL, named)
    return {f"{of}-{side}": ((None, feature),) for side in sides}


_NEGATIVE: tuple[Rule, ...] = (
    (
        _when(r"(?:^|\s)-[\d.]*[1-9]"),
        Feature("a negative margin", "css-margin", "GOo", "Move it with padding or an empty table cell."),
    ),
)
_ANIMATION: tuple[Rule, ...] = ((_when(r"^(?!none$)"), Feature("animation", "css-animation", "GOo", _STILL)),)
_IN_BACKGROUND: tuple[Rule, ...] = (
    (
        _when(r"conic-gradient\("),
        Feature("conic-gradient()", "css-conic-gradient", "GOo", _BEHIND, _BACKGROUND, "bgcolor"),
    ),
    (
        _when(r"linear-gradient\("),
        Feature("linear-gradient()", "css-linear-gradient", "Oo", _BEHIND, _BACKGROUND, "bgcolor"),
    ),
    (
        _when(r"radial-gradient\("),
        Feature("radial-gradient()", "css-radial-gradient", "Oo", _BEHIND, _BACKGROUND, "bgcolor"),
    ),
    (
        _when(r"url\("),
        Feature("a background image", "css-background-image", "O", _BEHIND, _BACKGROUND, "bgcolor"),
    ),
)

#: The rules for a property: of those whose pattern occurs in its value the first counts.
PROPERTIES: Mapping[str, tuple[Rule, ...]] = {
    "display": (
        (_when(r"\bflex\b"), Feature("display: flex", "css-display-flex", "O", _TABLE)),
        (_when(r"\bgrid\b"), Feature("display: grid", "css-display-grid", "O", _TABLE)),
        (_when(r"^(?!none$)"), Feature("display", "css-display", "O")),
    ),
    "grid-template": ((None, Feature("grid-template", "css-grid-template", "GOo", _TABLE)),),
    "grid-template-areas": ((None, Feature("grid-template-areas", "css-grid-template", "GOo", _TABLE)),),
    "grid-template-columns": ((None, Feature("grid-template-columns", "css-grid-template", "GOo", _TABLE)),),
    "grid-template-rows": ((None, Feature("grid-template-rows", "css-grid-template", "GOo", _TABLE)),),
    "flex-direction": (
        (_when(r"^row$"), Feature("flex-direction: row", "css-flex-direction", "GO")),
        (None, Feature("flex-direction", "css-flex-direction", "GO", _FLEX_WAYS)),
    ),
    "flex-wrap": (
        (_when(r"^nowrap$"), Feature("flex-wrap: nowrap", "css-flex-wrap", "GO")),
        (None, Feature("flex-wrap", "css-flex-wrap", "GO", _FLEX_WAYS)),
    ),
    "justify-content": ((None, Feature("justify-content", "css-justify-content", "GO", _FLEX_WAYS)),),
    "align-items": ((None, Feature("align-items", "css-align-items", "GO")),),
    # Gmail and Outlook.com know column-gap in a flexbox alone.
    "gap": ((None, Feature("gap", "css-gap", "GOo", _CELLS)),),
    "row-gap": ((None, Feature("row-gap", "css-gap", "GOo", _CELLS)),),
    "column-gap": ((None, Feature("column-gap", "css-gap", "O")),),
    "position": (
        (_when("absolute"), Feature("position: absolute", "css-position", "GOo", _TABLE)),
        (_when("fixed"), Feature("position: fixed", "css-position", "GOoA", "Leave it out.")),
        (_when("sticky"), Feature("position: sticky", "css-position", "GOA", "Leave it out.")),
        (None, Feature("position: relative", "css-position", "GOo")),
    ),
    "z-index": ((None, Feature("z-index", "css-z-index", "GO")),),
    "float": (
        (_when(r"^none$"), Feature("float: none", "css-float", "O")),
        (
            None,
            Feature(
                "float",
                "css-float",
                "O",
                "Give the image or table align=left or align=right too.",
                (),
                "align",
            ),
        ),
    ),
    "background": _IN_BACKGROUND,
    "background-image": _IN_BACKGROUND,
    "background-size": ((None, Feature("background-size", "css-background-size", "O")),),
    "background-position": ((None, Feature("background-position", "css-background-position", "O")),),
    "margin": _NEGATIVE,
    "margin-top": _NEGATIVE,
    "margin-right": _NEGATIVE,
    "margin-bottom": _NEGATIVE,
    "margin-left": _NEGATIVE,
    **_logical("margin"),
    **_logical("padding"),
    "object-fit": (
        (
            None,
            Feature("object-fit", "css-object-fit", "O", "Cut the picture to its size before you send it."),
        ),
    ),
    "object-position": ((None, Feature("object-position", "css-object-position", "O")),),
    "transform": (
        (_when(r"^none$"), Feature("transform: none", "css-transform", "GOo")),
        (
            None,
            Feature(
                "transform",
                "css-transform",
                "GOo",
                "Lay it out as it shall be seen, or draw it in a picture.",
            ),
        ),
    ),
    "animation": _ANIMATION,
    "animation-name": _ANIMATION,
    "transition": ((None, Feature("transition", "css-transition", "GOo")),),
    "filter": ((None, Feature("filter", "css-filter", "GOo")),),
    "clip-path": ((None, Feature("clip-path", "css-clip-path", "GOo")),),
    "writing-mode": (
        (
            None,
            Feature("writing-mode", "css-writing-mode", "O", "Write it in lines, or draw it in a picture."),
        ),
    ),
    # Each of these hides; a program that lacks one shows what was to stay hidden.
    "visibility": (
        (
            _when(r"hidden|collapse"),
            Feature("visibility: hidden", "css-visibility", "GO", _HIDE, _HIDDEN),
        ),
    ),
    "opacity": (
        (_when(r"^0*+\.?0*+%?$"), Feature("opacity: 0", "css-opacity", "O", _HIDE, _HIDDEN)),
        (None, Feature("opacity", "css-opacity", "O")),
    ),
    "border-radius": ((None, Feature("border-radius", "css-border-radius", "O")),),
    "box-shadow": ((None, Feature("box-shadow", "css-box-shadow", "GO")),),
    "text-shadow": ((None, Feature("text-shadow", "css-text-shadow", "GOo")),),
    "box-sizing": ((None, Feature("box-sizing", "css-box-sizing", "O")),),
    "max-width": ((None, Feature("max-width", "css-max-width", "O")),),
    "min-width": ((None, Feature("min-width", "css-min-width", "O")),),
    "max-height": ((None, Feature("max-height", "css-max-height", "O")),),
    "min-height": ((None, Feature("min-height", "css-min-height", "O")),),
    "aspect-ratio": ((None, Feature("aspect-ratio", "css-aspect-ratio", "GOo")),),
    "overflow": ((None, Feature("overflow", "css-overflow", "O")),),
    "overflow-x": ((None, Feature("overflow-x", "css-overflow", "O")),),
    "overflow-wrap": ((None, Feature("overflow-wrap", "css-overflow-wrap", "GOo")),),
    "white-space": ((None, Feature("white-space", "css-white-space", "O")),),
    "text-overflow": ((None, Feature("text-overflow", "css-text-overflow", "O")),),
    "outline": ((None, Feature("outline", "css-outline", "O")),),
    "column-count": ((None, Feature("column-count", "css-column-count", "O")),),
    "list-style-image": ((None, Feature("list-style-image", "css-list-style-image", "GOo")),),
    "cursor": ((None, Feature("cursor", "css-cursor", "Go")),),
}

#: What no value of any property may hold, where the property itself is understood.
VALUES: tuple[tuple[re.Pattern[str], Feature], ...] = (
    (_when(r"\bvar\("), Feature("var()", "css-variables", "GOo", "Write the value itself.")),
    (_when(r"\bcalc\("), Feature("calc()", "css-unit-calc", "Oo", _PLAIN)),
    (_when(r"\bclamp\("), Feature("clamp()", "css-function-clamp", "Oo", _PLAIN)),
    (_when(r"(?<![\w-])max\("), Feature("max()", "css-function-max", "Oo", _PLAIN)),
    (_when(r"(?<![\w-])min\("), Feature("min()", "css-function-min", "Oo", _PLAIN)),
    (
        _when(r"\bok(?:lab|lch)\(|(?<![\w-])l(?:ab|ch)\("),
        Feature("lab() and lch()", "css-modern-color", "GOo", _ONLY_COLOUR),
    ),
    (_when(r"\blight-dark\("), Feature("light-dark()", "css-function-light-dark", "GOo", _COLOUR)),
    (_when(r"\brgba?\([^,()]*+\)"), Feature("rgb() without commas", "css-rgb", "GO", _ONLY_COLOUR)),
    (_when(r"\brgba\(|\brgb\((?:[^,()]*+,){3}"), Feature("rgba()", "css-rgba", "O", _COLOUR)),
    (_when(r"\bhsla?\("), Feature("hsl()", WORD, "O", _COLOUR)),
    (_when(r"(?<![\w.#-])-?[\d.]++rem\b"), Feature("the unit rem", "css-unit-rem", "O", _PLAIN)),
    (_when(r"(?<![\w.#-])-?[\d.]++vw\b"), Feature("the unit vw", "css-unit-vw", "O", _PLAIN)),
    (_when(r"(?<![\w.#-])-?[\d.]++vh\b"), Feature("the unit vh", "css-unit-vh", "O", _PLAIN)),
    (_when(r"(?<![\w.#-])-?[\d.]++ch\b"), Feature("the unit ch", "css-unit-ch", "O", _PLAIN)),
)

#: At-rules. What stands inside @media and @supports is the author's own second choice, and is not looked at.
AT_RULES: Mapping[str, Feature] = {
    "font-face": Feature(
        "@font-face",
        "css-at-font-face",
        "GOo",
        "Put it inside @media screen {…}, or older Outlooks take Times New Roman in place of your next font.",
    ),
    "import": Feature("@import", "css-at-import", "Go", _COPY),
    "keyframes": Feature("@keyframes", "css-at-keyframes", "GOo"),
    "media": Feature("@media", "css-at-media", "O"),
    "supports": Feature("@supports", "css-at-supports", "GOo"),
}
NESTING = Feature(
    "a rule inside a rule", "css-nesting", "GOo", "Write each rule out with its whole selector."
)
#: Text that ::before or ::after adds; Outlook.com knows them for elements alone.
GENERATED = Feature(
    "text in ::before or ::after", "css-pseudo-element-before", "GO", "Write the text into the mail."
)
STYLE_IN_BODY = Feature("a <style> in the body", "html-style", "G", "Move it into the <head>.")

# --------------------------------------------------------------------------------------------- elements

_FORM = Feature("a form", "html-form", "Oo", "Link to a form on the web.")
_SCRIPT = Feature(
    "a script", NO_SCRIPT, "GOoA", "Leave it out; save what it draws as a PNG, or attach the page."
)
_MEDIA_FIX = "Put a linked picture inside it, which is shown instead."

ELEMENTS: Mapping[str, Feature] = {
    "svg": Feature("an <svg>", "html-svg", "GOo", _PNG),
    "video": Feature("a <video>", "html-video", "GOo", _MEDIA_FIX, fallback=True),
    "audio": Feature(
        "an <audio>", "html-audio", "GOo", "Put a link inside it, which is shown instead.", fallback=True
    ),
    "object": Feature("an <object>", "html-object", "GOo", "Attach the file, and link to it.", fallback=True),
    "progress": Feature("a <progress>", "html-progress", "GOo", "Write the number inside it.", fallback=True),
    "meter": Feature("a <meter>", "html-meter", "GO", "Write the number inside it.", fallback=True),
    "form": _FORM,
    "input": _FORM,
    "button": _FORM,
    "select": _FORM,
    "textarea": _FORM,
    "script": _SCRIPT,
    "canvas": _SCRIPT,
    "iframe": Feature("an <iframe>", NO_SCRIPT, "GOoA", "Attach the page, or link to it."),
    # Its <img> is shown; so is what stands in the others.
    "picture": Feature("a <picture>", "html-picture", "GOo"),
    "section": Feature("HTML5's sections", "html-semantics", "O"),
    "details": Feature("a <details>", "html-semantics", "GOo"),
}
#: Attributes of any element; ``link`` and ``style`` have rules of their own.
ATTRIBUTES: Mapping[str, Feature] = {
    "hidden": Feature("the attribute hidden", "html-hidden", "GOo", _HIDE, _HIDDEN),
    "background": Feature("a background= picture", "html-background", "O", _BEHIND, _BACKGROUND, "bgcolor"),
    "stylesheet": Feature("a linked style sheet", "html-link", "Go", _COPY),
    "script": _SCRIPT,
    "srcset": Feature("srcset=", "html-srcset", "GOo", "Give the <img> a src= too.", (), "src"),
    "loading": Feature("loading=", "html-loading-attribute", "GOo"),
}
#: Picture formats by the last part of their media type.
IMAGES: Mapping[str, Feature] = {
    "svg+xml": Feature("SVG", "image-svg", "G", "Save it as a PNG."),
    "webp": Feature("WebP", "image-webp", "O", "Save it as a PNG or JPEG."),
    "avif": Feature("AVIF", "image-avif", "O", "Save it as a PNG or JPEG."),
    "heic": Feature("HEIF", "image-heif", "Oo", "Save it as a JPEG."),
    "heif": Feature("HEIF", "image-heif", "Oo", "Save it as a JPEG."),
    "tiff": Feature("TIFF", "image-tiff", "GOo", "Save it as a PNG or JPEG."),
    "x-icon": Feature("ICO", "image-ico", "O", "Save it as a PNG."),
}
