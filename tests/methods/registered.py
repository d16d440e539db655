"""Every registered composition, small: what is registered in a test is a case from then on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from tensordict import TensorDict

from ctmrl_torchrl.methods import REPRESENTATIONS
from ctmrl_torchrl.modules import ENCODERS, EncoderConfig
from ctmrl_torchrl.objectives import MetaLoss
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.training.build import make_loss

TASKS, LENGTH, BATCH = 5, 7, 6


def small(config):
    """A registered configuration with networks of eight units."""
    widths = {each.name: [8] for each in fields(config) if each.name.endswith("hidden")}
    return replace(config(), **widths)


def problem(next_observation=True):
    keys = {"observation": 3, "action": 2, ("next", "observation"): 3, ("next", "reward"): 1}
    statistics = {key: (torch.zeros(size), torch.ones(size)) for key, size in keys.items()}
    statistics["observation_change"] = torch.zeros(3), torch.ones(3)
    table = torch.randn(TASKS, 2, generator=torch.Generator().manual_seed(0))
    return Problem(3, 2, 0.9, ("next", "reward"), next_observation, statistics, TASKS, table)


def transitions(*shape, generator):
    def draw(*size):
        return torch.randn(*shape, *size, generator=generator)

    end = torch.rand(*shape, 1, generator=generator) < 0.2
    following = {"observation": draw(3), "reward": draw(1), "done": end, "terminated": end.clone()}
    following["truncated"] = torch.zeros_like(end)
    return TensorDict({"observation": draw(3), "action": draw(2).tanh(), "next": following}, shape)


def meta_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = {
        name: transitions(TASKS, LENGTH, generator=generator) for name in ("context", "context_positive")
    }
    for draw in draws.values():
        draw["mask"] = torch.ones(TASKS, LENGTH, dtype=torch.bool)
    batch = draws | {"transitions": transitions(TASKS, BATCH, generator=generator)}
    return TensorDict(batch | {"task_id": torch.arange(TASKS)}, [TASKS])


@dataclass(frozen=True)
class Composition:
    encoder: str = "pooling"
    representation: str = "cqvae"
    policy_loss: str = "brac_sac"
    policy_options: tuple[tuple[str, Any], ...] = ()

    def build(self, seed=0, **changes) -> MetaLoss:
        encoder = small(ENCODERS.get(self.encoder))
        if isinstance(encoder, EncoderConfig):
            encoder.context_dim = 4
        representation = small(REPRESENTATIONS.get(self.representation))
        for name, value in changes.items():
            setattr(representation, name, value)
        policy_loss = small(POLICY_LOSSES.get(self.policy_loss))
        for name, value in self.policy_options:
            setattr(policy_loss, name, value)
        return make_loss(encoder, representation, policy_loss, problem(), seed)

    @property
    def id(self):
        return f"{self.encoder}-{self.representation}-{self.policy_loss}"


def compositions():
    """Each registered choice once, the others being the defaults."""
    found = [Composition(representation=name) for name in REPRESENTATIONS]
    found += [Composition(policy_loss=name) for name in POLICY_LOSSES]
    found += [Composition(encoder=name, representation="nothing") for name in ENCODERS]
    return list(dict.fromkeys(found))
