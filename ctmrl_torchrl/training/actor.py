"""The trained actor, rebuilt from the configuration as a saved agent rebuilds it."""

from __future__ import annotations

from typing import Any, cast

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.objectives import MetaLoss
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.config import ExperimentConfig

__all__ = ["check_actor", "rebuilt_actor"]


def rebuilt_actor(config: ExperimentConfig, problem: Problem, loss: MetaLoss) -> TensorDictModuleBase:
    """The actor of ``policy_loss.networks()`` with the weights of the loss's actor; uses up no random numbers."""
    with torch.random.fork_rng(devices=[]):
        actor = config.policy_loss.networks(problem, config.encoder.size(problem))[0]
    cast(Any, loss.policy).actor_network_params.data.to_module(actor)
    return actor


def check_actor(config: ExperimentConfig, problem: Problem, loss: MetaLoss) -> None:
    """Check that a saved agent would act like the loss's actor.

    An agent is rebuilt from ``policy_loss.networks()``, so ``policy_loss.build()`` must train this actor.

    Raises:
        ConfigError: if its weights do not fit, or its actions differ.
    """
    acting = ActingPolicy(loss.policy)
    try:
        actor = rebuilt_actor(config, problem, loss)
        fits = set(actor.in_keys) == set(acting.in_keys) and _names(actor) == _names(acting.policy_loss)
    except (KeyError, RuntimeError):
        fits = False
    sizes = {"observation": problem.observation_dim, "task_context": config.encoder.size(problem)}
    if fits and set(sizes) == set(acting.in_keys):
        device = next(loss.parameters()).device
        inputs = {key: torch.linspace(-1.0, 1.0, 3 * size).view(3, size) for key, size in sizes.items()}
        seen = TensorDict(inputs, [3]).to(device)
        apart = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        actions = []
        with apart, torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            for module in (actor.to(device), acting):
                torch.manual_seed(0)  # both drop out the same units
                actions.append(module(seen.clone())["action"])
        fits = torch.equal(actions[0], actions[1])
    if not fits:
        name = config.policy_loss.name
        raise ConfigError(
            f"config field policy_loss.name: the actor that {name!r} trains is not the one of its networks(), "
            "from which a saved agent is rebuilt; override networks(problem, context_dim) so that it returns "
            "your actor, and use it in build()."
        )


def _names(module: Any) -> dict[Any, torch.Size]:
    """Names and shapes of an actor's weights: those of a module, or those of the actor of a loss."""
    weights = getattr(module, "actor_network_params", None)
    found: Any = TensorDict.from_module(module) if weights is None else weights.data
    return {key: value.shape for key, value in found.items(True, True)}
