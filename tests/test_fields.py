"""``ctmrl train --help`` tells every field of the configuration."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

import pytest

from ctmrl_torchrl.commands.fields import SECTIONS, described_fields, help_text
from ctmrl_torchrl.places import config_folder


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_section_is_described(section):
    name, file = SECTIONS[section][-1]
    module = import_module("ctmrl_torchrl." + file.removesuffix(".py").replace("/", "."))
    expected = {field.name for field in fields(getattr(module, name))} - set(SECTIONS)
    described = dict(described_fields(section))
    assert set(described) == expected
    assert [field for field, text in described.items() if not text] == []


def test_the_help_has_what_the_readme_uses():
    text = help_text(config_folder(), "ctmrl train")
    for field in (
        "representation.contrastive_weight",
        "representation.codes",
        "policy_loss.hidden",
        "overwrite",
    ):
        assert f"  {field}\n" in text
