"""Behaviour policies: one SAC agent per task, all trained as a single batched computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate
from tqdm import tqdm

from ctmrl_torchrl.data.recipes import CollectionRecipe


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
    """One independent SAC agent per task with stacked parameters: no loop over tasks, nothing shared.

    Built from TorchRL's parts: :class:`~torchrl.modules.MultiAgentMLP` without parameter sharing holds the
    tasks in its agent dimension, and one :class:`~torchrl.objectives.SACLoss` reads batches of shape
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
    """Lets stacked actors act on flat environment rows ordered ``[repeat, task]`` (task runs fastest).

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
        set_exploration_type(ExplorationType.RANDOM if recipe.explore else ExplorationType.DETERMINISTIC),
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
def _episodes(
    env: EnvBase, policy: TensorDictModuleBase | None, steps: int, num_tasks: int
) -> TensorDictBase:
    """``steps`` steps of every row as ``[rows_per_task * steps, num_tasks]`` transitions."""
    rows = env.rollout(steps, policy, break_when_any_done=False).select(*_LEARNER_KEYS)
    return rows.reshape(-1, num_tasks, steps).permute(0, 2, 1).reshape(-1, num_tasks)
