"""What Hydra knows without a YAML file: schemas, a resolver, and choices that users registered."""

from __future__ import annotations

import os
import re
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ctmrl_torchrl.envs import FAMILIES, get_family
from ctmrl_torchrl.methods import PARTS
from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.training.config import CHOICES, DATA_ALONE, ExperimentConfig

#: horizon above which a family is tested with as few episodes as the MuJoCo robots
LONG_EPISODES = 100


def name_of_data(env: str, tasks: str, path: str | None = None) -> str:
    """The name of a run's data in the proposed ``run_dir``, available to YAML files as ``${name_of_data:...}``.

    Examples:
        >>> name_of_data("point_robot", "repo"), name_of_data("dataset", "repo", "data/my_robot")
        ('point_robot-repo', 'dataset-my_robot')
    """
    if env != DATA_ALONE or path is None:
        return f"{env}-{tasks}"
    folder = os.path.basename(os.path.abspath(os.path.expanduser(str(path))))
    return f"{env}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder).strip('-')[:100] or tasks}"


def register_configs() -> None:
    """Register the schema and all choices with Hydra. Call it again after registering more choices."""
    OmegaConf.register_new_resolver("name_of_data", name_of_data, replace=True)
    store = ConfigStore.instance()
    _store_schema("", "experiment_schema", ExperimentConfig)
    for section, registry in CHOICES.items():
        for name, config in registry.items():
            _store_schema(f"{section}_schema", name, config, package=section)
    shipped = config_folder()
    for name, config in PARTS.items():
        _store_schema("part_schema", name, config)
        if not (shipped / "part" / f"{name}.yaml").exists():
            _store_schema("part", name, config, package=f"parts.{name}")
    for name in (*FAMILIES, DATA_ALONE):
        if not (shipped / "env" / f"{name}.yaml").exists():
            store.store(group="env", name=name, node=_env_node(name), package="_global_")
    for name in CHOICES["policy_loss"]:
        if not (shipped / "policy_loss" / f"{name}.yaml").exists():
            node = {
                "defaults": [{"/policy_loss_schema": name}, "_self_"],
                "policy_loss": {"hidden": "${sizes.policy_hidden}"},
            }
            store.store(group="policy_loss", name=name, node=node, package="_global_")


def _store_schema(group: str, name: str, config: type, package: str | None = None) -> None:
    """Store a schema unless it is stored already: storing all of them takes a fifth of a composition."""
    store = ConfigStore.instance()
    folder = store.repo.get(group, {}) if group else store.repo
    stored = folder.get(f"{name}.yaml")
    if stored is None or OmegaConf.get_type(stored.node) is not config:
        store.store(group=group or None, name=name, node=config, package=package)


def _env_node(name: str) -> dict[str, Any]:
    """The settings of ``env=NAME`` for a family without a YAML file.

    Families with long episodes get fewer episodes, and IQL replaces BRAC-SAC: on pendulums of different mass
    and length (preset quick, seed 0) ``np`` returns -361 on training tasks with standardized rewards.
    BRAC-SAC returns -1,328, because its critics overestimate actions that are not in the data.
    """
    if name == DATA_ALONE:
        return {"env": name, "evaluation": {"protocols": []}}
    family = get_family(name)
    node: dict[str, Any] = {"env": name, "tasks": next(iter(family.presets))}
    if family.horizon >= LONG_EPISODES:
        # If episodes may end early, subtracting a mean would make early termination good or bad.
        choice = "iql" if family.terminates else "iql_standardised"
        node["defaults"] = [{"override /policy_loss": choice}, "_self_"]
        node["context"] = {"trajectories": [1, 3]}
        node["evaluation"] = {
            "protocols": ["none", "offline", "online", "np", "np_refine"],
            "episodes": 6,
            "random_episodes": 2,
            "repeats": 1,
            "final_repeats": 2,
        }
    return node
