"""All tests: how they are spread over processors, and that nothing of one of them is left to the next."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ctmrl_torchrl.registry import Registry

# One thread in each process, set before torch is imported: with more, processes wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: more processes than this gain little, and each takes a gigabyte of memory
_MOST = 8


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite on all cores where pytest-xdist is installed; ``-n 0`` turns that off."""
    option = config.option
    chosen = (
        config.args_source is not config.ArgsSource.TESTPATHS
        or option.keyword
        or getattr(option, "lf", False)
    )
    slow = "slow" in option.markexpr and "not slow" not in option.markexpr
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if option.numprocesses is not None or option.tx or chosen or slow or option.usepdb or option.collectonly:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1:
        option.numprocesses = min(cores, _MOST)
        option.dist = "worksteal"  # each process begins with its share, in order, so that fixtures are shared


@functools.cache
def _shipped_configs() -> None:
    """Tell Hydra of the shipped choices, once: it takes longer than most tests."""
    from ctmrl_torchrl.training.hydra_store import register_configs

    register_configs()


@pytest.fixture(autouse=True)
def _nothing_stays_of_a_test() -> Iterator[None]:
    with _nothing_stays():
        yield


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays_of_a_module() -> Iterator[None]:
    """What fixtures for a whole module register is there until its end."""
    with _nothing_stays():
        yield


@contextmanager
def _nothing_stays() -> Iterator[None]:
    """What is registered, imported from a temporary folder or put on the path inside is forgotten afterwards."""
    import gymnasium
    from hydra.core.config_store import ConfigStore

    from ctmrl_torchrl.data.behaviour import recipes

    _shipped_configs()
    of_recipes = (recipes._OF_FAMILIES, recipes._OF_SIMULATORS)
    tables = [registry._choices for registry in _registries()]
    tables += [
        gymnasium.registry,
        *of_recipes,
        *(each._choices for scope in of_recipes for each in scope.values()),
    ]
    repo = ConfigStore.instance().repo  # Hydra fills its own groups when it is first used
    tables += _groups({name: group for name, group in repo.items() if name != "hydra"})
    before = [(table, dict(table)) for table in tables]
    groups = set(repo)
    path, folder, modules = list(sys.path), os.getcwd(), set(sys.modules)
    yield
    for name in set(repo) - groups - {"hydra"}:
        del repo[name]
    for table, content in before:
        if table.keys() != content.keys() or any(table[name] is not content[name] for name in content):
            table.clear()
            table.update(content)
    sys.path[:] = path
    os.chdir(folder)
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        ours = file.startswith((sys.prefix, os.path.dirname(__file__)))  # which may lie there, too
        if file.startswith(tempfile.gettempdir()) and not ours:
            del sys.modules[name]


def _registries() -> list[Registry[Any]]:
    from ctmrl_torchrl.collectors import COLLECTORS, PROTOCOLS
    from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS
    from ctmrl_torchrl.data.interchange import IMPORTERS
    from ctmrl_torchrl.envs import FAMILIES
    from ctmrl_torchrl.methods import REPRESENTATIONS
    from ctmrl_torchrl.modules import ENCODERS
    from ctmrl_torchrl.objectives.policy import POLICY_LOSSES
    from ctmrl_torchrl.studies.runners import RUNNERS
    from ctmrl_torchrl.training.loggers import LOGGERS

    return [
        *(COLLECTORS, PROTOCOLS, BEHAVIOUR_AGENTS, IMPORTERS, FAMILIES),
        *(REPRESENTATIONS, ENCODERS, POLICY_LOSSES, RUNNERS, LOGGERS),
    ]


def _groups(repo: dict[str, Any]) -> list[dict[str, Any]]:
    """Every group of Hydra's store of configurations, those within others too."""
    groups = [group for group in repo.values() if isinstance(group, dict)]
    return [*groups, *(each for group in groups for each in _groups(group))]
