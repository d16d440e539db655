"""Behaviour policies: one SAC agent per task, all trained as a single batched computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate
from tqdm import tqdm


@dataclass(frozen=True)
class CollectionRecipe:
    """How behaviour policies are trained and which of their stages are kept as data.

    Snapshot 0 is the uniformly random policy when ``random_snapshot`` is set; the others are the actors after
    ``snapshot_steps`` gradient steps, in that order.

    Args:
        snapshot_steps: gradient steps at which the stacked actors are cloned; increasing; training ends at the last.
        trajectories_per_snapshot: stochastic episodes that each task records with each snapshot.
        random_snapshot: whether to begin with the uniformly random policy (recorded as step 0).
        hidden_sizes: widths of the hidden layers of every actor and critic.
        learning_rate: of Adam, for actors and critics.
        annealed_fraction: last share of the gradient steps over which the learning rate falls linearly to zero.
        batch_size: transitions per task in a gradient step.
        entropy_coefficient: SAC's alpha. It is fixed and the same for every task, because a learned one would be
            the only parameter the agents share.
        target_rate: Polyak rate of the target critics.
        discount: None takes the environment family's.
        rows_per_task: parallel episodes per task while training; several speed up early learning.
        random_episodes: uniformly random episodes per row before the first gradient step.
        gradient_steps_per_episode: gradient steps after each batch of episodes; None means one per environment step.
        replay_capacity: environment transitions kept per task.

    Raises:
        ValueError: if a field is out of its range; the message names the field.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(10, 20), trajectories_per_snapshot=3)
        >>> recipe.all_steps, recipe.gradient_steps
        ((0, 10, 20), 20)
    """

    snapshot_steps: tuple[int, ...]
    trajectories_per_snapshot: int
    random_snapshot: bool = True
    hidden_sizes: tuple[int, ...] = (128, 32)
    learning_rate: float = 3e-3
    annealed_fraction: float = 0.5
    batch_size: int = 64
    entropy_coefficient: float = 0.005
    target_rate: float = 0.1
    discount: float | None = None
    rows_per_task: int = 4
    random_episodes: int = 2
    gradient_steps_per_episode: int | None = None
    replay_capacity: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "snapshot_steps", tuple(int(step) for step in self.snapshot_steps))
        object.__setattr__(self, "hidden_sizes", tuple(int(size) for size in self.hidden_sizes))
        steps = self.snapshot_steps
        if any(step < 1 for step in steps) or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"snapshot_steps must be positive and strictly increasing, got {steps}.")
        if not steps and not self.random_snapshot:
            raise ValueError("snapshot_steps is empty and random_snapshot is False: there is nothing to collect.")
        at_least_one = ("trajectories_per_snapshot", "batch_size", "rows_per_task", "random_episodes")
        for name in (*at_least_one, "replay_capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.gradient_steps_per_episode is not None and self.gradient_steps_per_episode < 1:
            raise ValueError(
                f"gradient_steps_per_episode must be at least 1 or None, got {self.gradient_steps_per_episode}."
            )
        if self.discount is not None and not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount must lie in [0, 1), got {self.discount}.")
        if not 0.0 <= self.annealed_fraction <= 1.0:
            raise ValueError(f"annealed_fraction must lie in [0, 1], got {self.annealed_fraction}.")
        for name in ("learning_rate", "entropy_coefficient", "target_rate"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of the whole training: those of the last snapshot."""
        return self.snapshot_steps[-1] if self.snapshot_steps else 0

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The training step of every snapshot, by snapshot id (0 stands for the random policy)."""
        return (0, *self.snapshot_steps) if self.random_snapshot else self.snapshot_steps

    def learning_rate_scale(self, step: int) -> float:
        """Factor on the learning rate of gradient step ``step`` (counted from 0)."""
        if not self.annealed_fraction:
            return 1.0
        return min(1.0, (1.0 - step / self.gradient_steps) / self.annealed_fraction)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@contextmanager
def isolated_rng(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed torch's global generators inside the block only; the caller's streams are untouched.

    Distributions, action specs and weight initialisation draw from the global generators.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class BatchedSAC:
    """One independent SAC agent per task with stacked parameters: no loop over tasks, no sharing between them.

    Built from TorchRL's parts: :class:`~torchrl.modules.MultiAgentMLP` without parameter sharing holds the tasks
    in its agent dimension, and one :class:`~torchrl.objectives.SACLoss` reads batches of shape
    ``[batch, num_tasks]``. The loss is summed over tasks, so each agent gets the gradient it would get alone.

    Args:
        num_tasks: number of agents.
        observation_dim: size of an observation.
        action_dim: size of an action; actions lie in [-1, 1].
        recipe: network and optimiser settings.
        discount: used when the recipe leaves it open.
        seed: of the initial weights.
        device: where parameters live.

    Keys read by :meth:`update`, batch ``[batch, num_tasks]``: ``observation``, ``action``, ``("next",
    "observation" | "reward" | "done" | "terminated")``. Only ``terminated`` cuts the bootstrap.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=1, hidden_sizes=(8,))
        >>> agents = BatchedSAC(3, observation_dim=2, action_dim=2, recipe=recipe, discount=0.9, seed=0)
        >>> data = TensorDict({"observation": torch.zeros(5, 3, 2)}, [5, 3])
        >>> agents.actor(data)["action"].shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        num_tasks: int,
        observation_dim: int,
        action_dim: int,
        recipe: CollectionRecipe,
        *,
        discount: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_tasks = num_tasks
        self.device = torch.device(device)
        with isolated_rng(seed, self.device):
            actor_net = nn.Sequential(
                self._stacked_mlp(observation_dim, 2 * action_dim, recipe), NormalParamExtractor()
            )
            critic_net = self._stacked_mlp(observation_dim + action_dim, 1, recipe)
            self.actor = ProbabilisticActor(
                TensorDictModule(actor_net, in_keys=["observation"], out_keys=["loc", "scale"]),
                in_keys=["loc", "scale"],
                distribution_class=TanhNormal,
                return_log_prob=True,
            )
            self.loss = SACLoss(
                self.actor,
                ValueOperator(critic_net, in_keys=["observation", "action"]),
                num_qvalue_nets=2,
                loss_function="l2",
                alpha_init=recipe.entropy_coefficient,
                fixed_alpha=True,
                target_entropy=-float(action_dim),
            )
        self.loss.make_value_estimator(gamma=discount if recipe.discount is None else recipe.discount)
        self.target_updater = SoftUpdate(self.loss, tau=recipe.target_rate)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.loss.parameters() if parameter.requires_grad],
            lr=recipe.learning_rate,
            fused=True,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.learning_rate_scale)

    def _stacked_mlp(self, in_features: int, out_features: int, recipe: CollectionRecipe) -> MultiAgentMLP:
        return MultiAgentMLP(
            in_features,
            out_features,
            self.num_tasks,
            centralized=False,
            share_params=False,
            num_cells=list(recipe.hidden_sizes),
            activation_class=nn.ReLU,
            device=self.device,
        )

    def objective(self, batch: TensorDictBase) -> TensorDictBase:
        """SAC's losses on ``batch`` ``[batch, num_tasks]``, summed over tasks and averaged over the batch."""
        losses = self.loss(batch)
        return losses.set("total", (losses["loss_actor"] + losses["loss_qvalue"]) * self.num_tasks)

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """One gradient step of every agent; returns the detached losses."""
        losses = self.objective(batch)
        losses["total"].backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.target_updater.step()
        return losses.detach()

    def snapshot(self) -> TensorDict:
        """A detached copy of the stacked actor parameters, every leaf ``[num_tasks, ...]``."""
        return TensorDict.from_module(self.actor).data.clone()

    def load_snapshot(self, parameters: TensorDictBase) -> None:
        """Copy a :meth:`snapshot` into the actor."""
        TensorDict.from_module(self.actor).data.update_(parameters)

    def policy(self) -> TaskRows:
        """The current stochastic actors as a policy for a flat batch of environment rows."""
        return TaskRows(self.actor, self.num_tasks)


class TaskRows(TensorDictModuleBase):
    """Lets stacked actors act on flat environment rows that are ordered ``[repeat, task]`` (task runs fastest).

    Args:
        actor: reads ``observation`` ``[repeats, num_tasks, *]`` and writes ``action``.
        num_tasks: number of stacked actors; the number of rows must be a multiple of it.
    """

    def __init__(self, actor: TensorDictModuleBase, num_tasks: int) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self.actor, self.num_tasks = actor, num_tasks

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` for every row."""
        rows = tensordict.select("observation").reshape(-1, self.num_tasks)
        return tensordict.set("action", self.actor(rows)["action"].reshape(*tensordict.batch_size, -1))


def train_behaviours(
    env: EnvBase,
    agents: BatchedSAC,
    recipe: CollectionRecipe,
    *,
    horizon: int,
    seed: int,
    progress: bool = False,
) -> list[TensorDict]:
    """Train ``agents`` on ``env`` and return their actors at each of ``recipe.snapshot_steps``.

    Args:
        env: ``rows_per_task * num_tasks`` rows ordered ``[row, task]`` (task runs fastest).
        agents: trained in place.
        recipe: the schedule.
        horizon: environment steps per round of collection.
        seed: of exploration, replay and action sampling; the global generators are left as they were.
        progress: show a progress bar over gradient steps.

    Raises:
        ValueError: if the number of rows of ``env`` does not fit.
    """
    rows = recipe.rows_per_task * agents.num_tasks
    if env.batch_size != (rows,):
        raise ValueError(
            f"env has batch size {tuple(env.batch_size)}, but {agents.num_tasks} tasks with rows_per_task="
            f"{recipe.rows_per_task} need ({rows},)."
        )
    per_episode = horizon if recipe.gradient_steps_per_episode is None else recipe.gradient_steps_per_episode
    rounds = recipe.random_episodes + -(-recipe.gradient_steps // per_episode)
    capacity = min(recipe.replay_capacity, rounds * horizon * recipe.rows_per_task)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(capacity, device=agents.device),
        batch_size=recipe.batch_size,
        generator=torch.Generator(agents.device).manual_seed(seed),
    )
    snapshots: list[TensorDict] = []
    with (
        isolated_rng(seed, agents.device),
        tqdm(total=recipe.gradient_steps, desc="behaviour SAC", disable=not progress) as bar,
    ):
        for _ in range(recipe.random_episodes):
            buffer.extend(_episodes(env, None, horizon, agents.num_tasks))
        policy = agents.policy()
        for step in range(1, recipe.gradient_steps + 1):
            if step > 1 and (step - 1) % per_episode == 0:
                buffer.extend(_episodes(env, policy, horizon, agents.num_tasks))
            agents.update(buffer.sample())
            if step in recipe.snapshot_steps:
                snapshots.append(agents.snapshot())
            bar.update()
    return snapshots


_LEARNER_KEYS = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
)


@torch.no_grad()
def _episodes(env: EnvBase, policy: TensorDictModuleBase | None, steps: int, num_tasks: int) -> TensorDictBase:
    """``steps`` steps of every row as ``[rows_per_task * steps, num_tasks]`` transitions."""
    data = env.rollout(steps, policy, break_when_any_done=False).select(*_LEARNER_KEYS)  # [rows * tasks, steps]
    data = data.reshape(-1, num_tasks, steps)
    return data.permute(0, 2, 1).reshape(-1, num_tasks)


RECIPES: dict[str, CollectionRecipe] = {
    # quick: the whole of point_robot with 40 tasks in about a minute of one core
    "small": CollectionRecipe(
        snapshot_steps=(10, 30, 40, 50, 70, 100, 150, 200, 300, 450, 700, 1000, 1500),
        trajectories_per_snapshot=40,
        learning_rate=1.5e-2,
        batch_size=32,
    ),
    # the released checkpoints (2200 to 5000 by 200, 50 episodes each), and earlier ones so that early behaviour
    # is covered too
    "paper": CollectionRecipe(
        snapshot_steps=(20, 40, 60, 80, 100, 150, 200, 300, 500, 800, 1200, 1700, *range(2200, 5001, 200)),
        trajectories_per_snapshot=50,
    ),
}


def get_recipe(name: str) -> CollectionRecipe:
    """Look up a named recipe.

    Raises:
        ValueError: if there is none of that name; the message lists the names.

    Examples:
        >>> len(get_recipe("small").all_steps)
        14
    """
    if name not in RECIPES:
        raise ValueError(f"unknown collection recipe {name!r}; the names are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
