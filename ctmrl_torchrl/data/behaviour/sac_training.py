"""Training of SAC behavior agents: episodes, gradient steps and snapshots, with resuming."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl._utils import logger as torchrl_logger
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.data.behaviour.agents import isolated_rng
from ctmrl_torchrl.data.behaviour.checkpoint import read_checkpoint, stopped_in_collection, write_checkpoint
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.progress import progress_bar
from ctmrl_torchrl.stopping import deferred, stop_requested

#: seconds of training between two checkpoints
CHECKPOINT_SECONDS = 120.0
_LEARNER_KEYS = (
    "observation",
    "action",
    "task_id",
    ("next", "observation"),
    ("next", "task_id"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
)
_UNSTABLE = ("next", "unstable")


class SACLearner(Protocol):
    """The agent interface for training, implemented by :class:`~ctmrl_torchrl.data.behaviour.sac.SACAgents`."""

    num_tasks: int
    device: torch.device

    def policy(self) -> TensorDictModuleBase:
        """The current stochastic policy of flat environment rows."""
        ...

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Make one gradient step and return the detached losses."""
        ...

    def snapshot(self) -> TensorDict:
        """A detached copy of the policy."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The training state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""


class SACTraining:
    """Trains ``agents`` on ``env`` in rounds: an episode of every row, then gradient steps.

    Args:
        env: ``rows_per_task * num_tasks`` rows ordered ``[row, task]`` (task runs fastest).
        agents: trained in place.
        recipe: the schedule.
        horizon: environment steps per round of collection.
        seed: seed of exploration, replay and action sampling; the global generators are not changed.
        progress: show a progress bar over gradient steps, with the mean return of the last round.
        checkpoint: file that a long training writes between rounds and resumes from if it exists.
        identity: values that a checkpoint must share with this training.

    Raises:
        ValueError: if the number of rows of ``env`` is wrong.
        DatasetError: if the checkpoint is damaged or belongs to another training.
    """

    def __init__(
        self,
        env: EnvBase,
        agents: SACLearner,
        recipe: CollectionRecipe,
        *,
        horizon: int,
        seed: int,
        progress: bool = False,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        rows = recipe.rows_per_task * agents.num_tasks
        if env.batch_size != (rows,):
            raise ValueError(
                f"env has batch size {tuple(env.batch_size)}, but {agents.num_tasks} tasks with "
                f"rows_per_task={recipe.rows_per_task} need ({rows},)."
            )
        self.env, self.agents, self.recipe, self.horizon, self.seed = env, agents, recipe, horizon, seed
        self.progress, self.checkpoint, self.identity = progress, checkpoint, identity or {}
        self.per_round = recipe.gradient_steps_per_episode or horizon
        rounds = recipe.random_episodes + -(-recipe.total_steps // self.per_round)
        capacity = min(recipe.replay_capacity, rounds * horizon * recipe.rows_per_task)
        self.generator = torch.Generator(agents.device).manual_seed(seed)
        self.buffer = ReplayBuffer(
            storage=LazyTensorStorage(capacity, device=agents.device),
            batch_size=recipe.batch_size,
            generator=self.generator,
        )
        self.step = self.rounds = 0
        self.snapshots: list[TensorDict] = []
        self.last_return = float("nan")

    def run(self) -> list[TensorDict]:
        """Train to completion and return the actors at the recipe's ``snapshot_steps``.

        Raises:
            Stopped: after a signal, at the end of a round with a checkpoint.
        """
        recipe = self.recipe
        kind = ExplorationType.RANDOM if recipe.explore else ExplorationType.DETERMINISTIC
        with (
            deferred(),
            isolated_rng(self.seed, self.agents.device),
            set_exploration_type(kind),
            progress_bar(recipe.total_steps, "behavior SAC", shown=self.progress) as bar,
        ):
            if self.checkpoint is not None and self.checkpoint.exists():
                self._load()
                bar.update(self.step)
            else:
                for _ in range(recipe.random_episodes):
                    self._collect(None)
            saved = time.monotonic()
            while self.step < recipe.total_steps:
                if self.step:
                    self._collect(self.agents.policy())
                bar.set_postfix_str(f"mean return {self.last_return:.2f}", refresh=False)
                bar.update(self._learn())
                if stop_requested():
                    if self.checkpoint is not None:
                        self._save()
                    raise stopped_in_collection(self.checkpoint, f"step {self.step} of {recipe.total_steps}")
                if self.checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        return self.snapshots

    def _learn(self) -> int:
        """Make the gradient steps of one round and return their number."""
        before, end = self.step, min(self.step + self.per_round, self.recipe.total_steps)
        while self.step < end:
            self.agents.update(self.buffer.sample())
            self.step += 1
            if self.step in self.recipe.snapshot_steps:
                self.snapshots.append(self.agents.snapshot())
                torchrl_logger.info(
                    f"behavior snapshot at step {self.step}: mean return {self.last_return:.2f}"
                )
        return self.step - before

    @torch.no_grad()
    def _collect(self, policy: TensorDictModuleBase | None) -> None:
        """Collect one episode of every row, as ``[rows_per_task * horizon, num_tasks]`` transitions."""
        tasks, steps = self.agents.num_tasks, self.horizon
        # Every round has a separate seed, so checkpoints do not need the environment's random state.
        self.rounds += 1
        self.env.set_seed(self.seed + self.rounds)
        played = self.env.rollout(steps, policy, break_when_any_done=False)
        # Rows that terminate are reset and continue, so the mean is over all their episodes.
        episodes = played["next", "done"].sum().clamp(min=1)
        self.last_return = (played["next", "reward"].sum() / episodes).item()
        rows = played.select(*_LEARNER_KEYS, _UNSTABLE, strict=False)
        slices = rows.reshape(-1, tasks, steps).permute(0, 2, 1).reshape(-1, tasks)
        unstable = slices.get(_UNSTABLE, None)
        if unstable is not None:  # discard steps of an unstable simulation
            slices = slices[~unstable.squeeze(-1).any(1)].exclude(_UNSTABLE)
        self.buffer.extend(slices)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "rounds": self.rounds,
            "agents": self.agents.state_dict(),
            "snapshots": [snapshot.to_dict() for snapshot in self.snapshots],
            "replay": self.buffer[:].to_dict(),
            "cursor": self.buffer.writer.state_dict(),
            "sampling": self.generator.get_state(),
        }
        assert self.checkpoint is not None
        write_checkpoint(self.checkpoint, state, self.identity, self.agents.device)

    def _load(self) -> None:
        assert self.checkpoint is not None
        state = read_checkpoint(self.checkpoint, self.identity, self.agents.device)
        self.step, self.rounds = state["step"], state["rounds"]
        self.agents.load_state_dict(state["agents"])
        self.snapshots = [TensorDict.from_dict(s, batch_size=[]) for s in state["snapshots"]]
        replay = TensorDict.from_dict(state["replay"])
        self.buffer.extend(replay.auto_batch_size_(2))
        self.buffer.writer.load_state_dict(state["cursor"])
        self.generator.set_state(state["sampling"].cpu())
        torchrl_logger.info(f"resuming the behavior training of {self.checkpoint} at step {self.step}")
