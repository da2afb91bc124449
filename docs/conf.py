"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import re

project = "flatminima"
author = "The flatminima developers"
html_title = "flatminima"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
default_role = "literal"  # the docstrings write `code` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
suppress_warnings = ["misc.highlighting_failure"]

SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns|Yields):$")
NOTE = re.compile(r"(Source|Differs|Cost): ")


def readable(app, what, name, thing, options, lines):
    """Turn a docstring that reads well as plain text into one that Sphinx reads well.

    The equations under the first sentence are shown as they are written, each closing note begins a
    paragraph, and neither |w| nor a `word`s plural is taken for markup.
    """
    out, section = [], ""
    for line in lines:
        section = line if SECTION.match(line) else section
        equation = not section and line.startswith("    ")
        if equation and out and not out[-1]:
            out += ["::", ""]
        if NOTE.match(line) and out and out[-1]:
            out.append("")
        if not equation and section != "Example:":
            line = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line.replace("|", r"\|"))
        out.append(line)
    lines[:] = out


def setup(app):
    """Hook in before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", readable, priority=100)
