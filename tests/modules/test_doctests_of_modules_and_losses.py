from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import ctmrl_torchrl.modules
import ctmrl_torchrl.objectives

NAMES = [
    found.name
    for package in (ctmrl_torchrl.modules, ctmrl_torchrl.objectives)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_examples_run_as_printed(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = [len(test.examples) for name in NAMES for test in finder.find(importlib.import_module(name))]
    assert sum(map(bool, counts)) >= 5
