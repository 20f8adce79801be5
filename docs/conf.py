"""How the documentation is built: from this checkout, and without the network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What is described is this checkout, whatever is installed.
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import smtp_notebook  # noqa: E402 - after the path is set

project = "smtp_notebook"
author = "smtp_notebook contributors"
copyright = author
version = release = smtp_notebook.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "house"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext", "gallery", "pictures"]
nitpicky = True
# Dashes and dots alone: quotes in docstrings are those of Python.
smartquotes_action = "De"

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

add_module_names = False
autoclass_content = "class"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Napoleon keeps the last character of from_ only with this.
strip_signature_backslash = True
python_maximum_signature_line_length = 72
toc_object_entries_show_parents = "hide"

copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"index": [], "tutorial": []}
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "icon_links": [
        {
            "name": "Source",
            "url": "https://github.com/smtp-notebook/smtp_notebook",
            "icon": "fa-brands fa-github",
        }
    ],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
