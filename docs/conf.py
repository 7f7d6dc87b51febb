"""Sphinx's settings; `python docs/build.py` puts the pages together and runs it."""

import inspect
import re

from builder import text

from cupynn import __version__
from cupynn.pictures import DARK, LIGHT

project, version, release = "cupynn", __version__, __version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]

# Pages load nothing from elsewhere: no MathJax, no widgets. Equations are text, as in the sources.
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
nb_ipywidgets_js = {}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell, on a busy machine
nb_execution_in_temp = True
nb_merge_streams = True
highlight_language = "text"
smartquotes = False  # `--option` is no dash

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
autodoc_type_aliases = {"Array": "Array"}  # NumPy's or CuPy's; for Python it is Any
add_module_names = False

html_theme = "furo"
html_title = f"cupynn {version}"
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def _variables(theme):
    return {
        "color-background-primary": theme.background,
        "color-background-secondary": theme.panel,
        "color-foreground-primary": theme.ink,
        "color-brand-primary": theme.lines[0],
        "color-brand-content": theme.lines[0],
    }


html_theme_options = {"light_css_variables": _variables(LIGHT), "dark_css_variables": _variables(DARK)}


def plain_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text: their marks are no markup."""
    lines[:] = text.restructured("\n".join(lines)).splitlines()


def skip_field(app, what, name, obj, skip, options):
    """Fields of a NamedTuple, and classes that a class names, say nothing of themselves."""
    return True if inspect.isclass(obj) or (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def plain_signature(app, what, name, obj, options, signature, returns):
    """A type's name instead of Sphinx's stand-in for it."""
    return tuple(part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in (signature, returns))


def setup(app):
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-skip-member", skip_field)
