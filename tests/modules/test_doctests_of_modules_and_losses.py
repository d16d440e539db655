from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import ctmrl_torchrl.modules
import ctmrl_torchrl.objectives
import ctmrl_torchrl.objectives.policy
import ctmrl_torchrl.objectives.representation
from ctmrl_torchrl.registry import Registry

NAMES = [
    found.name
    for package in (ctmrl_torchrl.modules, ctmrl_torchrl.objectives)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
FRONTS = [
    ctmrl_torchrl.modules,
    ctmrl_torchrl.objectives,
    ctmrl_torchrl.objectives.policy,
    ctmrl_torchrl.objectives.representation,
]
PUBLIC = [
    (front, name)
    for front in FRONTS
    for name in front.__all__
    if not isinstance(getattr(front, name), Registry)
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_examples_run_as_printed(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("front", FRONTS)
def test_every_public_name_is_listed_once(front):
    assert len(set(front.__all__)) == len(front.__all__)
    imported = {
        name
        for name, value in vars(front).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith(front.__name__ + ".")
        and (inspect.isclass(value) or inspect.isfunction(value))
    }
    registries = {name for name in front.__all__ if isinstance(getattr(front, name), Registry)}
    assert imported == set(front.__all__) - registries


@pytest.mark.parametrize(("front", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_every_public_name_has_an_example(front, name):
    documented = getattr(front, name)
    tests = doctest.DocTestFinder(recurse=False).find(documented, name)
    assert any(test.examples for test in tests)
    # An example uses what it is about.
    assert name in "".join(example.source for test in tests for example in test.examples)


LOSSES = [
    name
    for name in ctmrl_torchrl.objectives.__all__
    if (name.endswith("Loss") or name.startswith("make_"))
    and name not in ("RepresentationLoss", "NoRepresentationLoss")
]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_what_it_reads_puts_out_and_raises(name):
    doc = inspect.getdoc(getattr(ctmrl_torchrl.objectives, name))
    for heading in ("Args:", "Keys", "Examples:"):
        assert heading in doc, heading
    if hasattr(getattr(ctmrl_torchrl.objectives, name), "forward") and name != "StackedLoss":
        assert "Gradients:" in doc
    if name != "CTMRLLoss":  # which refers to its parents
        assert "Raises:" in doc and "Out:" in doc
        accepted = getattr(ctmrl_torchrl.objectives, name)
        if hasattr(accepted, "_AcceptedKeys"):  # a stack of losses has those of the stacked ones
            for key in accepted._AcceptedKeys.__dataclass_fields__:
                assert f"``{key}``" in doc, key
