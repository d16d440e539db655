"""Encoders, actors and an environment whose behaviour can be computed by hand."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, exploration_type

from ctmrl_torchrl.collectors import MetaTestCollector
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.envs.point_robot import MAX_MOVE

HORIZON = 20
# what MarkedActor plays: its second coordinate tells deterministic episodes from noisy ones
DETERMINISTIC, NOISY = torch.tensor([0.5, 0.25]), torch.tensor([0.5, -0.25])


class Counts(TensorDictModuleBase):
    """Context = how many episodes' worth of steps it is made of: [all, deterministic ones, noisy ones]."""

    in_keys = [("context", "observation"), ("context", "action")]
    out_keys = ["task_context"]

    def forward(self, tensordict):
        context = tensordict["context"]
        mask, action = context["mask"], context["action"]
        kinds = [mask, *((action == kind).all(-1) & mask for kind in (DETERMINISTIC, NOISY))]
        return tensordict.set("task_context", torch.stack([kind.sum(-1) for kind in kinds], -1) / HORIZON)


class MarkedActor(TensorDictModuleBase):
    """Plays one of two marked actions, whatever the context."""

    in_keys = ["observation", "task_context"]
    out_keys = ["action"]

    def forward(self, tensordict):
        noisy = exploration_type() is ExplorationType.RANDOM
        action = (NOISY if noisy else DETERMINISTIC).expand(*tensordict.batch_size, 2)
        return tensordict.set("action", action.clone())


class GoalFinder(TensorDictModuleBase):
    """Context = the goal, by least squares from positions and their distances to it (minus the rewards)."""

    in_keys = [("context", "next", "observation"), ("context", "next", "reward")]
    out_keys = ["task_context"]

    def forward(self, tensordict):
        context = tensordict["context"]
        position = context["next", "observation"].double()
        distance = context["next", "reward"].double()
        # |p - g|^2 = d^2, linear in the goal g and in |g|^2
        matrix = torch.cat([2 * position, -torch.ones_like(distance)], -1)
        target = position.square().sum(-1, keepdim=True) - distance.square()
        weight = context["mask"].unsqueeze(-1).double()
        solution = torch.linalg.lstsq(matrix * weight, target * weight).solution
        return tensordict.set("task_context", solution[:, :2, 0].float())


class Walker(TensorDictModuleBase):
    """Walks straight to the context, coordinate by coordinate."""

    in_keys = ["observation", "task_context"]
    out_keys = ["action"]

    def forward(self, tensordict):
        way = tensordict["task_context"] - tensordict["observation"]
        noise = 0.3 * torch.randn_like(way) if exploration_type() is ExplorationType.RANDOM else 0.0
        return tensordict.set("action", (way / MAX_MOVE + noise).clamp(-1.0, 1.0))


def walk_return(target, goal):
    """Return of Walker, by hand: the distances to the goal after each move towards the target."""
    position, total = torch.zeros(2), 0.0
    for _ in range(HORIZON):
        position = position + (target - position).clamp(-MAX_MOVE, MAX_MOVE)
        total -= (position - goal).norm().item()
    return total


class EarlyEnv(EnvBase):
    """Row i terminates after ``limits[i]`` steps and starts again; each step is worth 1; observes its
    step."""

    batch_locked = True

    def __init__(self, limits):
        super().__init__(batch_size=[len(limits)])
        self.limits = torch.tensor(limits).unsqueeze(-1)
        self.count = torch.zeros_like(self.limits)
        n = len(limits)
        self.observation_spec = Composite(observation=Unbounded((n, 1)), shape=[n])
        self.action_spec = Bounded(-1.0, 1.0, (n, 2))
        self.reward_spec = Unbounded((n, 1))
        flags = {name: Categorical(2, (n, 1), dtype=torch.bool) for name in ("done", "terminated")}
        self.done_spec = Composite(flags, shape=[n])

    def _reset(self, tensordict=None, **kwargs):
        mask = None if tensordict is None else tensordict.get("_reset", None)
        self.count = torch.zeros_like(self.count) if mask is None else self.count * ~mask.view(-1, 1)
        return TensorDict({"observation": self.count.float()}, self.batch_size)

    def _step(self, tensordict):
        self.count = self.count + 1
        end = self.count >= self.limits
        values = {"observation": self.count.float(), "reward": torch.ones(end.shape)}
        return TensorDict({**values, "done": end, "terminated": end.clone()}, self.batch_size)

    def _set_seed(self, seed):
        pass


def make_collector(encoder, actor, task_ids=(2, 6, 6), env=None, **options):
    task_ids = torch.tensor(task_ids)
    env = make_env("point_robot", task_ids) if env is None else env
    context_dim = 3 if isinstance(encoder, Counts) else 2
    fields = {"task_ids": task_ids, "horizon": HORIZON, "context_dim": context_dim} | options
    return MetaTestCollector(env, actor, encoder, **fields)
