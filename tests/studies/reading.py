"""Reads the tables of a study, and changes what its runs have recorded."""

from __future__ import annotations

import json

import yaml


def cells(table, **levels):
    """The rows of a table with these texts in these columns."""
    at = [table.header.index(name) for name in levels]
    return [row for row in table.rows if [row[index].text for index in at] == list(levels.values())]


def change(file, kind, **changes):
    """Change fields of a JSON or YAML file."""
    content = kind.loads(file.read_text()) if kind is json else yaml.safe_load(file.read_text())
    content |= changes
    file.write_text(json.dumps(content))
