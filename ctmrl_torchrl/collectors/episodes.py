"""One episode of every row of a batched environment, gathered by a TorchRL collector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.collectors import BaseCollector
from torchrl.envs import EnvBase

from ctmrl_torchrl.collectors.kinds import COLLECTORS, CollectorConfig, CollectorParts
from ctmrl_torchrl.collectors.rows import EnvMaker, EpisodeEnv, EpisodePolicy, make_episode_env
from ctmrl_torchrl.rules import check_fields


class EpisodeCollector:
    """Plays whole episodes, all rows side by side, with a context per row or with random actions.

    One TorchRL collector lives as long as this object; a batch of it is one episode of ``horizon`` steps of
    every row, and its policy is told before each batch what to play. With several workers the rows are split
    evenly; the last row is repeated where that does not come out even, and the repetitions are dropped.

    With the kind ``single`` the numbers are those of ``env.rollout(horizon, break_when_any_done=False)``, bit
    for bit. With several workers, random actions are drawn in this process and are the same for any number of
    workers; a stochastic actor and an environment with random initial states draw in their worker, so they
    repeat for the same seed and the same number of workers only. Sums of another number of rows may round
    differently.

    Args:
        env (EnvBase or callable): batched, one row per task id; or a function that makes one from task ids,
            which several workers need.
        actor (TensorDictModule): ``(observation, task_context) -> action``. Workers hold copies, which
            :meth:`session` brings up to date.

    Keyword Args:
        task_ids (Tensor): ``[n]``, the task of each row.
        horizon (int): H, number of steps of an episode.
        context_key (NestedKey): what the actor reads. Defaults to ``"task_context"``.
        config (CollectorConfig, optional): the kind of collector and the number of workers. Defaults to one
            collector in this process.

    Attributes:
        env (EnvBase): the environment, or with several workers a closed one of the same specs.

    Raises:
        ValueError: if the rows of the environment are not those of ``task_ids``, or several workers are asked
            for without a function that makes environments.
        ConfigError: if the configuration is not allowed.

    Examples:
        >>> from ctmrl_torchrl import modules
        >>> from ctmrl_torchrl.envs import make_env
        >>> actor = modules.make_actor(observation_dim=2, action_dim=2, context_dim=4)
        >>> tasks = torch.tensor([2, 6, 6])
        >>> env = make_env("point_robot", tasks)
        >>> episodes = EpisodeCollector(env, actor, task_ids=tasks, horizon=20)
        >>> with episodes.session(seed=0):
        ...     episodes.play(torch.zeros(3, 4))["mask"].shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        env: EnvBase | EnvMaker,
        actor: TensorDictModuleBase,
        *,
        task_ids: Tensor,
        horizon: int,
        context_key: NestedKey = "task_context",
        config: CollectorConfig | None = None,
    ) -> None:
        config = CollectorConfig() if config is None else config
        check_fields(config, "collector")
        config.check()
        self.actor = actor
        self.horizon = horizon
        self._num_rows = task_ids.numel()
        self._batches: Iterator[TensorDictBase] | None = None
        self._task_ids = task_ids
        with (
            torch.random.fork_rng()
        ):  # environments are reset below, which may draw from the global generator
            self._collector = self._make(env, config, context_key)

    def _make(
        self, env: EnvBase | EnvMaker, config: CollectorConfig, context_key: NestedKey
    ) -> BaseCollector:
        task_ids, actor, horizon = self._task_ids, self.actor, self.horizon
        given = isinstance(env, EnvBase)
        self.env = env if given else env(task_ids)
        check_batch_size(self.env, task_ids)
        check_rows(self.env.reset(), task_ids)
        policy = partial(
            EpisodePolicy,
            actor,
            context_key=context_key,
            action_key=self.env.action_key,
            device=self.env.device,
        )
        kind = COLLECTORS.get(config.kind)
        if kind.in_process:
            self._rows = [torch.arange(self._num_rows)]
            make_envs = [partial(EpisodeEnv, self.env, horizon, owned=not given)]
        elif given:
            raise ValueError(
                f"EpisodeCollector: the workers of collector kind {config.kind!r} make their own environments; "
                "pass env= a function of task ids, e.g. lambda task_ids: make_env('point_robot', task_ids), "
                "in place of an environment, or choose kind 'single'."
            )
        else:
            self.env.close()
            self._rows = _split(self._num_rows, config.workers)
            make_envs = [partial(make_episode_env, env, task_ids[rows], horizon) for rows in self._rows]
        workers, frames = len(make_envs), len(self._rows[0]) * horizon
        self._in_process = kind.in_process
        parts = CollectorParts(tuple(make_envs), (policy,) * workers, frames, self.env.device)
        collector = kind.make(parts)
        if kind.in_process and collector.policy.actor is not actor:
            collector.shutdown()
            raise ValueError(
                f"EpisodeCollector: the environment is on {self.env.device}, the actor's parameters are on "
                "another device; move one of them, e.g. make_env(..., device=...)."
            )
        return collector

    @contextmanager
    def session(self, seed: int) -> Iterator[None]:
        """Play inside this context: environments and actors are seeded, workers' actors are up to date.

        The actor's parameters must not be replaced inside. The global generator of this process is left
        alone: seed it for random actions, and for a stochastic actor of the kind ``single``.
        """
        workers = len(self._rows)
        generator = torch.Generator().manual_seed(seed)
        others = torch.randint(2**31, (workers - 1,), generator=generator).tolist()
        seeds = [(each,) for each in (seed, *others)]
        self._collector.map_fn("env.set_seed", seeds)
        if not self._in_process:
            self._collector.map_fn("policy.manual_seed", seeds)
            state = {name: value.detach().cpu() for name, value in self.actor.state_dict().items()}
            self._collector.map_fn("policy.load_actor", [(state,)] * workers)
        self._collector.map_fn("policy.prepare", [()] * workers)
        try:
            yield
        finally:
            if self._in_process:  # the workers' copies are nobody else's
                self._collector.map_fn("policy.release")

    def play(self, task_context: Tensor, *, stochastic: bool = False) -> TensorDictBase:
        """One episode ``[n, H]`` of every row with its context ``[n, d]``, deterministic unless asked.

        Returns:
            TensorDict ``[n, H]`` of what environment and actor wrote, and ``mask`` ``[n, H]``, false after the
            end of a row's episode.
        """
        options = [{"stochastic": stochastic}] * len(self._rows)
        return self._play([(self._part(task_context, rows),) for rows in self._rows], options)

    def play_randomly(self) -> TensorDictBase:
        """One episode ``[n, H]`` of uniformly random actions, drawn from the global generator."""
        spec = self.env.action_spec
        actions = torch.stack([spec.rand() for _ in range(self.horizon)], 1)
        return self._play(
            [(None,)] * len(self._rows), [{"actions": self._part(actions, rows)} for rows in self._rows]
        )

    def _part(self, values: Tensor, rows: Tensor) -> Tensor:
        """The values of a worker's rows, ready to be sent to it."""
        return values if self._in_process else values.cpu()[rows]

    def _play(self, contexts: list[tuple[Tensor | None]], options: list[dict[str, Any]]) -> TensorDictBase:
        if self._batches is None:
            self._batches = iter(self._collector)
        self._collector.map_fn("policy.begin", contexts, options)
        try:
            episode = next(self._batches)
        except BaseException:
            self._batches = None  # an iterator that has raised is over
            raise
        if episode.ndim > 2:  # [workers, rows, H]
            episode = episode.flatten(0, 1)[: self._num_rows]
        if episode.device != self.env.device and self.env.device is not None:
            episode = episode.to(self.env.device)
        check_rows(episode[:, 0], self._task_ids)
        done = episode.get(("next", "done")).squeeze(-1).long()
        return episode.set("mask", done.cumsum(-1) - done == 0)

    def close(self) -> None:
        """Stop the workers, and close the environments that were made here; a given one stays open."""
        if self._collector is not None:
            self._batches = None
            self._collector.shutdown()
            self._collector = None

    def __enter__(self) -> EpisodeCollector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _split(num_rows: int, workers: int) -> list[Tensor]:
    """Row numbers of each worker, equally many; the last row is repeated to make up the number."""
    workers = min(workers, num_rows)
    each = -(-num_rows // workers)
    return list(torch.arange(each * workers).clamp_max(num_rows - 1).view(workers, each).unbind())


def check_batch_size(env: EnvBase, task_ids: Tensor) -> None:
    """Refuse an environment that does not have one row per task id.

    Raises:
        ValueError: naming both shapes.
    """
    if tuple(env.batch_size) != tuple(task_ids.shape) or task_ids.ndim != 1:
        raise ValueError(
            f"The environment has {env.batch_size.numel()} rows but task_ids names {task_ids.numel()}: batch "
            f"size {list(env.batch_size)}, task_ids of shape {list(task_ids.shape)}; expected one row per task "
            "id, [n]. Build it with make_env(..., task_ids=task_ids)."
        )


def check_rows(state: TensorDictBase, task_ids: Tensor) -> None:
    """Refuse rows that belong to other tasks than ``task_ids`` ``[n]``, or to the same in another order.

    An environment that does not write ``task_id`` is taken at its word.

    Raises:
        ValueError: naming the first row that differs.
    """
    found = state.get("task_id", None)
    if found is None:
        return
    found = found.reshape(task_ids.shape).to(task_ids.device)
    wrong = (found != task_ids).nonzero().flatten()
    if wrong.numel():
        row = wrong[0].item()
        raise ValueError(
            f"{wrong.numel()} of {len(task_ids)} rows of the environment belong to other tasks than task_ids "
            f"says; the first is row {row}: task {found[row].item()} in the environment, "
            f"{task_ids[row].item()} in task_ids. Build it with make_env(..., task_ids=task_ids), or call "
            "env.set_task(task_ids)."
        )
