"""Settings of Sphinx for the documentation: ``make docs`` builds it, with warnings as errors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import jupyter_cache.executors.utils as executors
from pydantic import BaseModel
from sphinx.application import Sphinx

from flatcal import __version__

project = "flatcal"
author = "The flatcal developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
smartquotes = False  # the prime of g' is none
highlight_language = "none"  # of blocks that do not name a language: shells and their output

# -- pages in Markdown, two of them notebooks ----------------------------------------------

# As deep as links go; the anchors are those that a forge makes of the headings.
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
# What a cell writes to stderr (a warning, say) is no part of a page: then the build fails.
nb_output_stderr = "remove-warn"
# What a program prints comes in pieces; myst-nb's nb_merge_streams would put line feeds between.
executors.executenb = partial(executors.executenb, coalesce_streams=True)
# Kernels inherit these: tables as wide as the page, headers remembered nowhere else, and a shell
# that does not force colours.
os.environ["COLUMNS"] = "100"
os.environ["FLATCAL_CACHE_DIR"] = str(Path(__file__).parent / "_build" / "cache")
os.environ["BASH_ENV"] = str(Path(__file__).with_name("notebook.bash"))

# -- reference from docstrings ---------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections have the types
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # np.ma.mean, not the address of a function
numpydoc_show_class_members = False

# -- appearance --------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"flatcal {release}"
html_static_path = ["_static"]
html_css_files = ["flatcal.css"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r"\$ |>>> |\.\.\. |cl> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

# -- pages outside of this folder --------------------------------------------------------------

# On the repository's web page links lead to the files themselves; here to pages that include them.
INCLUDED = {
    "../CONTRIBUTING.md": "/development/contributing.md",
    "../CHANGELOG.md": "/development/changes.md",
    "../benchmarks/README.md": "/development/benchmarks.md",
}


def lead_to_included(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to files outside of this folder lead to the pages that include them."""
    up = "../" * docname.count("/")
    for file, page in INCLUDED.items():
        source[0] = source[0].replace(f"]({up}{file}", f"]({page}")


def hide_fields(_app: Sphinx, _what: str, _name: str, obj: object, *_: object) -> object:
    """Leave out the signature of a model: its fields stand below, with their meaning."""
    is_model = isinstance(obj, type) and issubclass(obj, BaseModel)
    return ("", None) if is_model else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", lead_to_included)
    app.connect("autodoc-process-signature", hide_fields)
