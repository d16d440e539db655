"""Sphinx configuration: ``sphinx-build docs docs/_build`` (extra ``docs``)."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import signature as sphinx_signature
from sphinx.util.inspect import stringify_signature
from torch import nn

import ctmrl_torchrl

project = "ctmrl_torchrl"
author = "The ctmrl_torchrl developers"
version = release = ctmrl_torchrl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
copyright = "2026, the ctmrl_torchrl developers"
html_theme = "furo"
html_title = f"ctmrl_torchrl {release}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
maximum_signature_line_length = 80
# The docstrings describe what is read and written in sections of their own.
napoleon_custom_sections = ["Keys", "Out"]
napoleon_use_ivar = True
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

_NAMES = re.compile(r"\*+\w+")


def real_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the arguments of ``__init__`` where a base class hides them behind ``*args, **kwargs``."""
    if what != "class" or signature is None or not {"*args", "**kwargs"} <= set(_NAMES.findall(signature)):
        return signature, returns
    if getattr(obj, "_is_protocol", False):  # nobody creates one
        return "", returns
    if obj.__init__ is nn.Module.__init__:
        return "()", returns
    own = sphinx_signature(obj.__init__, bound_method=False)
    own = own.replace(parameters=list(own.parameters.values())[1:])
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), returns


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-signature", real_signature)
