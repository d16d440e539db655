"""Training of the PPO behavior agent: rounds, updates and snapshots."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl._utils import logger as torchrl_logger
from torchrl.envs.utils import ExplorationType, set_exploration_type, step_mdp

from ctmrl_torchrl.data.behaviour.agents import isolated_rng, task_rows
from ctmrl_torchrl.data.behaviour.checkpoint import read_checkpoint, stopped_in_collection, write_checkpoint
from ctmrl_torchrl.data.behaviour.ppo_networks import ToldFeatures
from ctmrl_torchrl.data.behaviour.ppo_settings import PPOSettings
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.envs import BatchedTaskEnv, TaskSet
from ctmrl_torchrl.progress import progress_bar
from ctmrl_torchrl.stopping import deferred, stop_requested
from ctmrl_torchrl.typed import stack_tensordicts

#: seconds of training between two checkpoints
CHECKPOINT_SECONDS = 120.0
_KEPT_KEYS = (
    "features",
    "latent",
    "observation",
    "task_id",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
    ("next", "unstable"),
)


class PPOLearner(Protocol):
    """The agent interface for training, implemented by :class:`~ctmrl_torchrl.data.behaviour.ppo.PPOAgents`."""

    settings: PPOSettings
    features: ToldFeatures
    optimizer: torch.optim.Adam
    task_ids: tuple[int, ...]
    device: torch.device
    rate: float

    def policy(self) -> TensorDictModuleBase:
        """The current stochastic policy of flat environment rows."""
        ...

    def evaluate(self, played: TensorDictBase) -> TensorDict:
        """The update data from collected steps ``[rows, time]``."""
        ...

    def update(self, batch: TensorDictBase, value_variance: Tensor | float) -> Tensor:
        """Make one gradient step and return the divergence from the collecting policy."""
        ...

    def snapshot(self) -> TensorDict:
        """A detached copy of the policy."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The training state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""


def spread_rows(returns: Tensor, rows: int, spare: float) -> Tensor:
    """Assign rows to tasks: most of them evenly, and the spare rows to the tasks with the lower returns.

    Args:
        returns: mean return of each task ``[tasks]``; unknown returns count as the lowest.
        rows: number of rows, at least one per task.
        spare: fraction of the rows for the lower half.

    Returns:
        int64 ``[tasks]``, each at least one, with the sum ``rows``.

    Examples:
        >>> spread_rows(torch.tensor([5.0, 1.0, 3.0, 2.0]), rows=16, spare=0.5).tolist()
        [2, 6, 2, 6]
    """
    tasks = len(returns)
    even = max(1, int(rows * (1.0 - spare)) // tasks) if spare else rows // tasks
    lowest = returns.cpu().nan_to_num(nan=-torch.inf).argsort(stable=True)[: -(-tasks // 2)]
    turns = torch.arange(rows - even * tasks) % len(lowest)
    return torch.full((tasks,), even).index_add_(0, lowest[turns], torch.ones_like(turns))


class PPOTraining:
    """Trains a PPO agent in rounds; within a round, rows continue from one set of updates to the next.

    At the start of a round, all rows are reset and assigned to tasks. Checkpoints are only written between
    rounds, so they do not need the simulator's state. The first episode of each row is truncated at a random
    time, with bootstrapping, so that the rows of an update are at different times of their episodes.

    Args:
        tasks: the task set.
        agents: trained in place, on the tasks ``agents.task_ids``.
        recipe: the schedule; ``snapshot_steps`` count environment steps of all rows together.
        seed: seed of all randomness; the global generators are not changed.
        progress: show a progress bar over environment steps, with the mean return of the last round.
        checkpoint: file that a long training writes between rounds and resumes from if it exists.
        identity: values that a checkpoint must share with this training.

    Raises:
        DatasetError: raised by :meth:`run` if the checkpoint is damaged or belongs to another training.
    """

    def __init__(
        self,
        tasks: TaskSet,
        agents: PPOLearner,
        recipe: CollectionRecipe,
        *,
        seed: int,
        progress: bool = False,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.agents, self.recipe, self.seed = agents, recipe, seed
        self.progress, self.checkpoint, self.identity = progress, checkpoint, identity or {}
        self.settings, self.horizon = agents.settings, tasks.family.horizon
        self.env = task_rows(tasks, agents.task_ids, recipe.rows_per_task, device=agents.device, seed=seed)
        self.rows = self.env.batch_size[0]
        self.step = self.rounds = 0
        self.snapshots: list[TensorDict] = []
        #: mean return of the episodes of the last round by position in ``agents.task_ids``
        self.task_returns = torch.full((len(agents.task_ids),), float("nan"))

    def run(self) -> list[TensorDict]:
        """Train to completion and return the policies at the recipe's ``snapshot_steps``.

        Raises:
            Stopped: after a signal, at the end of a round with a checkpoint.
        """
        total, device = self.recipe.total_steps, self.agents.device
        with (
            deferred(),
            isolated_rng(self.seed, device),
            set_exploration_type(ExplorationType.RANDOM),
            progress_bar(total, "behavior PPO", unit="steps", shown=self.progress) as bar,
        ):
            if self.checkpoint is not None and self.checkpoint.exists():
                self._load()
                bar.update(self.step)
            saved = time.monotonic()
            while self.step < total:
                before = self.step
                self._round()
                bar.set_postfix_str(f"mean return {self.task_returns.nanmean():.2f}", refresh=False)
                bar.update(min(self.step, total) - before)
                if stop_requested():
                    if self.checkpoint is not None:
                        self._save()
                    raise stopped_in_collection(self.checkpoint, f"step {self.step} of {total}")
                if self.checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self.env.close()
        return self.snapshots

    def _round(self) -> None:
        """Reset all rows, then alternate collection and updates."""
        self.rounds += 1
        # Every round has a separate seed, so checkpoints do not need the environment's random state.
        self.env.set_seed(self.seed + self.rounds)
        self.start_rows()
        iterations = -(-self.settings.round_steps // self.settings.rollout_steps)
        for _ in range(iterations):
            played = self._play()
            self.step += played.numel()
            self._learn(played)
            self._keep_snapshots()
            if self.step >= self.recipe.total_steps:
                break
        self.task_returns = self._round_returns()

    def _round_returns(self) -> Tensor:
        """Mean return of each task in this round, or in the previous round if no episode has ended."""
        return torch.where(self.returned[1] > 0, self.returned[0] / self.returned[1], self.task_returns)

    def start_rows(self) -> None:
        """Assign tasks to rows, reset them, and sample the truncation times of their first episodes."""
        device = self.agents.device
        if self.settings.spare_rows:
            counts = spread_rows(self.task_returns, self.rows, self.settings.spare_rows)
            cast(BatchedTaskEnv, self.env).set_task(
                torch.tensor(self.agents.task_ids).repeat_interleave(counts)
            )
        self.present = self.env.reset()
        self.cut = torch.randint(1, self.horizon + 1, (self.rows, 1), device=device)
        self.clock = torch.zeros(self.rows, 1, dtype=torch.int64, device=device)
        self.running = torch.zeros(self.rows, device=device)
        self.returned = torch.zeros(2, len(self.agents.task_ids), device=device)
        ids = torch.tensor(self.agents.task_ids, device=device)
        self.positions = torch.searchsorted(ids, self.present["task_id"])

    @torch.no_grad()
    def _play(self) -> TensorDictBase:
        """Collect steps ``[rows, rollout_steps]`` with the current policy."""
        policy, steps = self.agents.policy(), []
        for _ in range(self.settings.rollout_steps):
            played = self.env.step(policy(self.present))
            self._end_episodes(played["next"])
            steps.append(played.select(*_KEPT_KEYS, strict=False))
            self.present = self.env.maybe_reset(step_mdp(played))
        return stack_tensordicts(steps, 1)

    def _end_episodes(self, following: TensorDictBase) -> None:
        """Truncate first episodes when due, and record the returns of complete episodes."""
        self.clock += 1
        self.running += following["reward"].squeeze(-1)
        whole = following["done"].squeeze(-1)
        if whole.any():
            noted = torch.stack([self.running, torch.ones_like(self.running)])[:, whole]
            self.returned.index_add_(1, self.positions[whole], noted)
            self.running[whole] = 0.0
        cut = (self.clock == self.cut) & ~following["done"]
        if cut.any():
            following["done"] |= cut
            if "truncated" in following:
                following["truncated"] |= cut
            self.running[cut.squeeze(-1)] = 0.0

    def _learn(self, played: TensorDictBase) -> None:
        """Make one set of updates and adapt the learning rate to the policy divergence."""
        agents, settings = self.agents, self.settings
        batch = agents.evaluate(played)
        variance = batch["value_target"].var() + 1e-4
        scale = settings.last_rate + (1.0 - settings.last_rate) * self.recipe.learning_rate_scale(self.step)
        for group in agents.optimizer.param_groups:
            group["lr"] = agents.rate * scale
        for _ in range(settings.epochs):
            order = torch.randperm(len(batch), device=agents.device)
            divergences = [
                agents.update(batch[chosen], variance) for chosen in order.chunk(settings.minibatches)
            ]
            divergence = float(sum(divergences) / len(divergences))
            if divergence > settings.stop_divergence:
                break
        if divergence > settings.most_divergence:
            agents.rate = max(agents.rate / settings.rate_factor, settings.least_rate)
        elif divergence < settings.least_divergence:
            agents.rate = min(agents.rate * settings.rate_factor, settings.most_rate)
        agents.features.observe(played["observation"])

    def _keep_snapshots(self) -> None:
        """Save a snapshot for each of the recipe's steps that was reached."""
        wanted = self.recipe.snapshot_steps
        while len(self.snapshots) < len(wanted) and self.step >= wanted[len(self.snapshots)]:
            self.snapshots.append(self.agents.snapshot())
            torchrl_logger.info(
                f"behavior snapshot at step {self.step:,}: mean return {self._round_returns().nanmean():.2f}"
            )

    def _save(self) -> None:
        state = {
            "step": self.step,
            "rounds": self.rounds,
            "agents": self.agents.state_dict(),
            "snapshots": [snapshot.to_dict() for snapshot in self.snapshots],
            "task_returns": self.task_returns,
        }
        assert self.checkpoint is not None
        write_checkpoint(self.checkpoint, state, self.identity, self.agents.device)

    def _load(self) -> None:
        assert self.checkpoint is not None
        state = read_checkpoint(self.checkpoint, self.identity, self.agents.device)
        self.step, self.rounds, self.task_returns = state["step"], state["rounds"], state["task_returns"]
        self.agents.load_state_dict(state["agents"])
        self.snapshots = [TensorDict.from_dict(each, batch_size=[]) for each in state["snapshots"]]
        torchrl_logger.info(f"resuming the behavior training of {self.checkpoint} at step {self.step:,}")
