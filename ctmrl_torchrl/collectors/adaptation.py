"""The meta-test: every task and repeat is a row of one batched environment, and all rows adapt in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs import EnvBase

from ctmrl_torchrl.collector_kinds import CollectorConfig
from ctmrl_torchrl.collectors.encoding import EvidenceEncoder
from ctmrl_torchrl.collectors.episodes import EpisodeCollector
from ctmrl_torchrl.collectors.protocol import AdaptationProtocol
from ctmrl_torchrl.collectors.rows import EnvMaker
from ctmrl_torchrl.collectors.run import AdaptationRun, OfflineDraw, RunParts
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.typed import stack_tensordicts


class MetaTestCollector:
    """Adapts to tasks: collects evidence under a protocol and measures the policy after each collected episode.

    One call of :meth:`run` runs ``protocol.episodes`` measured episodes in all rows of the environment.
    Measurement k uses the context after k collected episodes (k = 0, 1, ...), acts deterministically, and does
    not add to the evidence. A TorchRL collector collects the episodes; see
    :class:`~ctmrl_torchrl.collectors.EpisodeCollector`.

    Args:
        env (EnvBase or callable): batched, one row per task and repeat, with a ``task_id`` leaf; see
            :func:`~ctmrl_torchrl.envs.make_env`. Alternatively a function that creates such an environment from
            task ids ``[n]``; several workers require a function.
        actor (TensorDictModule): ``(observation, task_context) -> action``.
        context_encoder (TensorDictModule): reads keys below ``evidence_key``, ``task_key`` at the root, or
            both; writes ``context_key`` (or, if it has no such out-key, its last one).

    Keyword Args:
        task_ids (Tensor): ``[n]``, the task of each row of ``env``.
        horizon (int): H; an episode that ends early is masked after its end.
        context_dim (int): d.
        return_key (NestedKey): the reported reward. Defaults to ``("next", "reward")``.
        context_key (NestedKey): what the actor reads. Defaults to ``"task_context"``.
        observation_key (NestedKey): where paths are read from. Defaults to ``"observation"``.
        evidence_key (NestedKey): root of the transitions that the encoder reads. Defaults to ``"context"``.
        task_key (NestedKey): where an encoder finds the row's task id ``[n]``. Defaults to ``"task_id"``.
        offline_draw (callable, optional): ``(task_ids, generator) -> [n, H]`` episodes with ``mask``; needed
            by protocols with ``needs_offline_data``.
        collector (CollectorConfig, optional): which TorchRL collector plays, with how many workers. Defaults
            to one in this process.

    Raises:
        ValueError: if the rows of ``env`` are not those of ``task_ids``, or the encoder reads keys outside of
            ``evidence_key``.
        ConfigError: if ``collector`` is not allowed.

    Examples:
        >>> from ctmrl_torchrl import modules
        >>> from ctmrl_torchrl.collectors import NonPriorProtocol
        >>> from ctmrl_torchrl.envs import make_env
        >>> features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
        >>> tasks = torch.tensor([2, 2, 6, 6])  # two tasks, each twice
        >>> collector = MetaTestCollector(
        ...     make_env("point_robot", tasks),
        ...     modules.make_actor(observation_dim=2, action_dim=2, context_dim=4),
        ...     modules.make_context_encoder(feature_dims=features, context_dim=4),
        ...     task_ids=tasks, horizon=20, context_dim=4)
        >>> run = collector.run(NonPriorProtocol(episodes=5, random_episodes=2), seed=0)
        >>> run["returns"].shape, run["task_context"].shape
        (torch.Size([4, 5]), torch.Size([4, 5, 4]))
        >>> run["env_steps"][0].tolist()  # of the collected episodes, before each measurement
        [0, 20, 40, 60, 80]
    """

    def __init__(
        self,
        env: EnvBase | EnvMaker,
        actor: TensorDictModuleBase,
        context_encoder: TensorDictModuleBase,
        *,
        task_ids: Tensor,
        horizon: int,
        context_dim: int,
        return_key: NestedKey = ("next", "reward"),
        context_key: NestedKey = "task_context",
        observation_key: NestedKey = "observation",
        evidence_key: NestedKey = "context",
        task_key: NestedKey = "task_id",
        offline_draw: OfflineDraw | None = None,
        collector: CollectorConfig | None = None,
    ) -> None:
        self.actor = actor
        self.context_encoder = context_encoder
        self.task_ids = task_ids
        self.horizon = horizon
        self.context_dim = context_dim
        encoder = EvidenceEncoder(
            context_encoder, context_key=context_key, evidence_key=evidence_key, task_key=task_key
        )
        episodes = EpisodeCollector(
            env, actor, task_ids=task_ids, horizon=horizon, context_key=context_key, config=collector
        )
        self._parts = RunParts(
            episodes=episodes,
            encoder=encoder,
            task_ids=task_ids,
            context_dim=context_dim,
            return_key=return_key,
            observation_key=observation_key,
            offline_draw=offline_draw,
        )

    @property
    def env(self) -> EnvBase:
        """The environment; with several workers, a closed one with the same specs."""
        return self._parts.episodes.env

    @torch.no_grad()
    def run(self, protocol: AdaptationProtocol, *, seed: int = 0, keep_episodes: bool = False) -> TensorDict:
        """Adapt all rows under a protocol.

        The global random state is not changed: random actions and stochastic policies are seeded with ``seed``.

        Args:
            protocol (AdaptationProtocol): collects the evidence. seed (int): seed of all randomness.
            keep_episodes (bool): whether to also return the collected episodes.

        Returns:
            TensorDict ``[n]``. E is ``protocol.episodes``; entry k belongs to the measurement after k
            collections.

            - ``task_id`` ``[n]``
            - ``returns`` ``[n, E]`` and ``task_context`` ``[n, E, d]``, return and context of each
              measurement
            - ``episodes``, ``env_steps``, ``oracle_answers`` ``[n, E]`` int64, the adaptation cost so far:
              episodes collected or sampled, valid environment steps of collected episodes, oracle answers
            - ``total_env_steps`` ``[n, E]`` int64, valid environment steps including those of the measured
              episodes up to this one
            - ``first_path``, ``last_path`` ``[n, H+1, observation]``: the first collected and the last
              measured episode
            - ``first_return`` ``[n]``: return of the first collected episode
            - ``collected`` ``[n, k, H]``, with ``keep_episodes``: the k episodes that were collected, with
              their ``mask``

        Raises:
            NotFiniteError: with task, episode and entry, if a value is not finite.
            ValueError: if the protocol needs something that this meta-test does not have.
        """
        state = AdaptationRun(self._parts, protocol.name, torch.Generator().manual_seed(seed))
        entries: list[dict[str, Tensor]] = []
        with (
            torch.random.fork_rng(),
            _evaluating(self.actor, self.context_encoder),
            self._parts.episodes.session(seed),
        ):
            torch.manual_seed(seed)
            protocol.reset(state)
            for collected in range(protocol.episodes):
                context = protocol.context(state)
                measured = state.measure(context)
                returns = state.episode_return(measured)
                entries.append({"returns": returns, "task_context": context.clone(), **_costs(state)})
                if collected + 1 < protocol.episodes:
                    protocol.collect(state)
        first = state.episodes[0] if state.episodes else measured
        observation_key = self._parts.observation_key
        kept = {"collected": _collected(state, measured)} if keep_episodes else {}
        return TensorDict(
            {
                **kept,
                "task_id": self.task_ids,
                **{name: torch.stack([entry[name] for entry in entries], 1) for name in entries[0]},
                "first_return": state.episode_return(first),
                "first_path": _path(first, observation_key),
                "last_path": _path(measured, observation_key),
            },
            batch_size=self.task_ids.shape,
        )

    def close(self) -> None:
        """Stop workers and close environments created here; an environment passed by the caller stays open."""
        self._parts.episodes.close()

    def __enter__(self) -> MetaTestCollector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _collected(state: AdaptationRun, like: TensorDictBase) -> TensorDictBase:
    """The collected episodes ``[n, k, H]``; k is 0 if a protocol collects nothing."""
    if state.episodes:
        return stack_tensordicts(state.episodes, 1)
    return like.unsqueeze(1)[:, :0]


def _costs(state: AdaptationRun) -> dict[str, Tensor]:
    """The cost of each row so far, ``[n]`` each."""
    return {
        "episodes": state.episode_count.clone(),
        "env_steps": state.env_steps.clone(),
        "total_env_steps": state.total_env_steps.clone(),
        "oracle_answers": state.oracle_answers.clone(),
    }


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Use evaluation mode inside the block and restore the previous modes afterwards, even after errors."""
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.train(mode)


def _path(episode: TensorDictBase, key: NestedKey) -> Tensor:
    """Observations along an episode ``[n, H]``: ``[n, H+1, *]``; after an early end the last one is repeated."""
    observations = torch.cat([episode.get(key)[:, :1], episode.get(join_key("next", key))], 1)
    rows, steps = (torch.arange(size, device=observations.device) for size in observations.shape[:2])
    shown = torch.minimum(steps, episode.get("mask").sum(-1, keepdim=True))
    return observations[rows.unsqueeze(-1), shown]
