"""Collects one episode of every row of a batched environment with a TorchRL collector."""

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
from torchrl.envs import EnvBase

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig, CollectorParts, EpisodeEnv
from ctmrl_torchrl.collectors.rows import (
    EnvMaker,
    EpisodePolicy,
    check_batch_size,
    check_done,
    check_rows,
    make_episode_env,
)
from ctmrl_torchrl.rules import check_fields


class EpisodeCollector:
    """Collects complete episodes of all rows in parallel, with one context per row or with random actions.

    One TorchRL collector lives as long as this object. Each of its batches is one episode of ``horizon`` steps
    of every row, and its policy is configured before each batch. Several workers split the rows evenly; if
    necessary, the last row is repeated and the repetitions are dropped.

    With the kind ``single``, results equal ``env.rollout(horizon, break_when_any_done=False)`` bit for bit. With
    several workers, random actions are sampled in this process and do not depend on the number of workers. A
    stochastic actor and random initial states are sampled in the worker, so they are only reproducible for the
    same seed and number of workers. Sums over a different number of rows may round differently.

    Args:
        env (EnvBase or callable): batched, one row per task id; or a function that creates one from task
            ids, which several workers require.
        actor (TensorDictModule): ``(observation, task_context) -> action``. Workers hold copies, which
            :meth:`session` updates.

    Keyword Args:
        task_ids (Tensor): ``[n]``, the task of each row.
        horizon (int): H, number of steps of an episode.
        context_key (NestedKey): the actor's context key. Defaults to ``"task_context"``.
        config (CollectorConfig, optional): the kind of collector and the number of workers. Defaults to one
            collector in this process.

    Attributes:
        env (EnvBase): the environment; with several workers, a closed one with the same specs.

    Raises:
        ValueError: if the rows of the environment do not match ``task_ids``, if it has no ``done`` at the root,
            or if several workers are requested without a function that creates environments.
        ConfigError: if the configuration is invalid.

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
        kind, given = COLLECTORS.get(config.kind), isinstance(env, EnvBase)
        if given and not kind.in_process:
            raise ValueError(
                f"EpisodeCollector: the workers of collector kind {config.kind!r} create their own environments; "
                "set env= to a function of task ids, e.g. lambda task_ids: make_env('point_robot', "
                "task_ids), instead of an environment, or choose kind 'single'."
            )
        self.actor = actor
        self.horizon = horizon
        self._task_ids = task_ids
        self._kind = kind
        self._owns_env = not given
        self._closed = False
        self._collector: Any = None  # collectors in this process have a policy, which BaseCollector does not
        self._batches: Iterator[TensorDictBase] | None = None
        with torch.random.fork_rng():  # resets may draw from the global generator
            self.env: EnvBase = env if isinstance(env, EnvBase) else env(task_ids)
            check_batch_size(self.env, task_ids)
            check_done(self.env)
            check_rows(self.env.reset(), task_ids)
            if kind.in_process:
                self._rows = [torch.arange(task_ids.numel())]
                make_envs = [partial(EpisodeEnv, self.env, horizon, owned=False)]
            else:
                self.env.close(raise_if_closed=False)
                self._rows = _split(task_ids.numel(), config.workers)
                make_envs = [partial(make_episode_env, env, task_ids[rows], horizon) for rows in self._rows]
            keys = {"context_key": context_key, "action_key": self.env.action_key}
            make_policy = partial(EpisodePolicy, actor, device=self.env.device, **keys)
            frames = len(self._rows[0]) * horizon
            self._parts = CollectorParts(
                tuple(make_envs), (make_policy,) * len(make_envs), frames, self.env.device
            )
            self._start()

    def _start(self) -> None:
        collector: Any = self._kind.make(self._parts)
        if self._kind.in_process and collector.policy.actor is not self.actor:
            collector.shutdown()
            raise ValueError(
                f"EpisodeCollector: the environment is on {self.env.device}, the actor's parameters are on "
                "another device; move one of them, e.g. make_env(..., device=...)."
            )
        self._collector = collector

    @contextmanager
    def session(self, seed: int) -> Iterator[None]:
        """A context manager for collection: seeds environments and actors and updates the workers' actors.

        The actor's parameters must not be replaced inside. The global generator of this process is not
        changed; seed it for random actions and for a stochastic actor with the kind ``single``.

        Raises:
            RuntimeError: if :meth:`close` was called.
        """
        if self._closed:
            raise RuntimeError("This collector was closed; create another one to collect more episodes.")
        if self._collector is None:  # it stopped after an error
            self._start()
        collector: Any = self._collector
        workers = len(self._rows)
        generator = torch.Generator().manual_seed(seed)
        others = torch.randint(2**31, (workers - 1,), generator=generator).tolist()
        seeds = [(each,) for each in (seed, *others)]
        collector.map_fn("env.set_seed", seeds)
        if not self._kind.in_process:
            collector.map_fn("policy.manual_seed", seeds)
            state = {name: value.detach().cpu() for name, value in self.actor.state_dict().items()}
            collector.map_fn("policy.load_actor", [(state,)] * workers)
        collector.map_fn("policy.prepare", [()] * workers)
        policy = collector.policy if self._kind.in_process else None
        try:
            yield
        except BaseException:
            if policy is None:
                self._stop()  # a worker may have failed or be in the middle of an episode
            raise
        finally:
            if policy is not None:
                policy.release()
        if policy is None:
            collector.map_fn("policy.release", [()] * workers)

    def play(
        self, task_context: Tensor, *, stochastic: bool = False, random_steps: int = 0
    ) -> TensorDictBase:
        """Collect one episode ``[n, H]`` of every row with its context ``[n, d]``.

        Args:
            task_context, stochastic: see above.
            random_steps (int): number of initial steps with uniformly random actions from the global
                generator.

        Returns:
            TensorDict ``[n, H]`` with the entries of environment and actor, and ``mask`` ``[n, H]``, false
            after the end of a row's episode.
        """
        options: list[dict[str, Any]] = [{"stochastic": stochastic} for _ in self._rows]
        if random_steps:
            actions = self._random_actions(random_steps)
            for option, rows in zip(options, self._rows, strict=True):
                option["actions"] = self._part(actions, rows)
        return self._play([(self._part(task_context, rows),) for rows in self._rows], options)

    def play_randomly(self) -> TensorDictBase:
        """Collect one episode ``[n, H]`` with uniformly random actions from the global generator."""
        actions = self._random_actions(self.horizon)
        return self._play(
            [(None,)] * len(self._rows), [{"actions": self._part(actions, rows)} for rows in self._rows]
        )

    def _random_actions(self, steps: int) -> Tensor:
        """Uniformly random actions ``[n, steps, a]``."""
        spec = self.env.full_action_spec[self.env.action_key]
        return torch.stack([spec.rand() for _ in range(steps)], 1)

    def _part(self, values: Tensor, rows: Tensor) -> Tensor:
        """The values for a worker's rows, in a form that can be sent to it."""
        return values if self._kind.in_process else values.cpu()[rows]

    def _play(self, contexts: list[tuple[Tensor | None]], options: list[dict[str, Any]]) -> TensorDictBase:
        if self._batches is None:
            self._batches = iter(self._collector)
        self._collector.map_fn("policy.begin", contexts, options)
        try:
            episode: Any = next(self._batches)
        except BaseException:
            self._stop()
            raise
        if episode.ndim > 2:  # [workers, rows, H]
            episode = episode.flatten(0, 1)[: self._task_ids.numel()]
        if episode.device != self.env.device and self.env.device is not None:
            episode = episode.to(self.env.device)
        check_rows(episode[:, 0], self._task_ids)
        done = episode.get(("next", "done")).squeeze(-1).long()
        return episode.set("mask", done.cumsum(-1) - done == 0)

    def _stop(self) -> None:
        """Stop the TorchRL collector; the next session starts a new one."""
        collector, self._collector, self._batches = self._collector, None, None
        if collector is not None:
            collector.shutdown()

    def close(self) -> None:
        """Stop the workers and close environments created here; a given environment stays open."""
        self._closed = True
        self._stop()
        if self._owns_env:
            self.env.close(raise_if_closed=False)

    def __enter__(self) -> EpisodeCollector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _split(num_rows: int, workers: int) -> list[Tensor]:
    """Row indices of each worker in equal numbers; the last row is repeated if necessary."""
    workers = min(workers, num_rows)
    each = -(-num_rows // workers)
    return list(torch.arange(each * workers).clamp_max(num_rows - 1).view(workers, each).unbind())
