"""Sphinx configuration: ``sphinx-build docs docs/_build`` (extra ``docs``)."""

from __future__ import annotations

import ctmrl_torchrl

project = "ctmrl_torchrl"
author = "The ctmrl_torchrl developers"
version = release = ctmrl_torchrl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# The docstrings speak of their reading and writing in sections of their own.
napoleon_custom_sections = ["Keys", "Out"]
suppress_warnings = ["myst.xref_missing"]
