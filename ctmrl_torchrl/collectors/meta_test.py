"""The meta-test: every task and repeat is a row of one batched environment, adapted side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import RandomPolicy

from ctmrl_torchrl.modules.keys import join_key, rest_of_key

#: draws one context episode ``[n, H]`` for each of ``task_ids`` from offline data
OfflineDraw = Callable[[Tensor, torch.Generator], TensorDictBase]


class _ContextPolicy(TensorDictModuleBase):
    """The actor with a fixed context per row: writes it before acting, so that any rollout can use it."""

    def __init__(self, actor: TensorDictModuleBase, context_key: NestedKey, task_context: Tensor) -> None:
        super().__init__()
        self.actor = actor
        self.context_key = context_key
        self.in_keys = [key for key in actor.in_keys if key != context_key]
        self.out_keys = [*actor.out_keys, context_key]
        self.task_context = task_context

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.actor(tensordict.set(self.context_key, self.task_context))


class AdaptationRun:
    """What one batched meta-test knows so far: the episodes collected, and the tools to get more.

    A protocol reads and extends it. ``n`` is the number of rows (tasks x repeats), ``H`` the horizon.

    Attributes:
        task_ids (Tensor): ``[n]``.
        episodes (list of TensorDict): collected episodes ``[n, H]`` with ``mask``; they are what a context is
            made of.
        returns (list of Tensor): their returns ``[n]``.
        generator (torch.Generator): for every draw of the protocol.
    """

    def __init__(self, collector: MetaTestCollector, generator: torch.Generator) -> None:
        self._collector = collector
        self.task_ids = collector.task_ids
        self.generator = generator
        self.episodes: list[TensorDictBase] = []
        self.returns: list[Tensor] = []

    @property
    def prior_context(self) -> Tensor:
        """The context before any evidence: zeros ``[n, d]``."""
        return self._collector.prior_context()

    def add(self, episode: TensorDictBase) -> None:
        """Append an episode ``[n, H]`` to the evidence."""
        self.episodes.append(episode)
        self.returns.append(self.episode_return(episode))

    def episode_return(self, episode: TensorDictBase) -> Tensor:
        """Sum of the reported reward over the valid steps, ``[n]``."""
        reward = episode.get(self._collector.return_key).squeeze(-1)
        return (reward * episode.get("mask")).sum(-1)

    def play(self, task_context: Tensor, *, stochastic: bool = False) -> TensorDictBase:
        """One episode ``[n, H]`` of the policy with the given contexts ``[n, d]``."""
        return self._collector.rollout(task_context, stochastic=stochastic)

    def play_randomly(self) -> TensorDictBase:
        """One episode ``[n, H]`` of uniformly random actions."""
        return self._collector.rollout(None)

    def draw_offline(self) -> TensorDictBase:
        """One episode ``[n, H]`` from each row's own offline dataset."""
        return self._collector.draw_offline(self.task_ids, self.generator)

    def encode(self, episodes: Sequence[TensorDictBase]) -> Tensor:
        """Task contexts ``[n, d]`` of the given episodes, pooled together."""
        return self._collector.encode(torch.cat(list(episodes), 1))


class AdaptationProtocol(Protocol):
    """What :class:`~ctmrl_torchrl.collectors.MetaTestCollector` asks of a protocol.

    Examples:
        >>> class LastEpisode:  # a protocol of one's own: only the latest random episode counts
        ...     name, episodes = "last", 4
        ...     def reset(self, run):
        ...         pass
        ...     def context(self, run):
        ...         return run.encode(run.episodes[-1:]) if run.episodes else run.prior_context
        ...     def collect(self, run):
        ...         run.add(run.play_randomly())
        >>> protocol: AdaptationProtocol = LastEpisode()  # collector.run(protocol, seed=0)
    """

    name: str
    episodes: int

    def reset(self, run: AdaptationRun) -> None:
        """Forget everything: a new meta-test begins."""

    def context(self, run: AdaptationRun) -> Tensor:
        """The contexts ``[n, d]`` to act with, given the evidence so far."""

    def collect(self, run: AdaptationRun) -> None:
        """Add one episode to the evidence."""


class MetaTestCollector:
    """Adapt to tasks by episodes: evidence is collected under a protocol, the policy measured after each.

    One call of :meth:`run` plays, for every row of the environment at once, ``protocol.episodes`` measured
    episodes: measurement k uses the context available after k collected episodes (k = 0, 1, ...), acts
    deterministically, and adds nothing to the evidence.

    Args:
        env (EnvBase): batched, one row per task and repeat, with a ``task_id`` leaf; see
            :func:`~ctmrl_torchrl.envs.make_env`.
        actor (TensorDictModule): ``(observation, task_context) -> action``.
        context_encoder (TensorDictModule): reads keys below ``evidence_key``, writes ``context_key`` (or, if
            it has no such out-key, its last one).

    Keyword Args:
        task_ids (Tensor): ``[n]``, the task of each row of ``env``.
        horizon (int): H; an episode that ends early is masked after its end.
        context_dim (int): d.
        return_key (NestedKey): the reported reward. Defaults to ``("next", "reward")``.
        context_key (NestedKey): what the actor reads. Defaults to ``"task_context"``.
        observation_key (NestedKey): where paths are read from. Defaults to ``"observation"``.
        evidence_key (NestedKey): root of what the encoder reads. Defaults to ``"context"``.
        offline_draw (callable, optional): ``(task_ids, generator) -> [n, H]`` episodes with ``mask``; needed
            by the ``offline`` protocol only.

    Raises:
        ValueError: if ``env`` has another number of rows than ``task_ids``, or the encoder reads keys outside
            of ``evidence_key``.

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
    """

    def __init__(
        self,
        env: EnvBase,
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
        offline_draw: OfflineDraw | None = None,
    ) -> None:
        if env.batch_size.numel() != task_ids.numel():
            raise ValueError(
                f"MetaTestCollector: the environment has {env.batch_size.numel()} rows but task_ids names "
                f"{task_ids.numel()}; build it with make_env(..., task_ids=task_ids)."
            )
        self.env = env
        self.actor = actor
        self.context_encoder = context_encoder
        self.task_ids = task_ids
        self.horizon = horizon
        self.context_dim = context_dim
        self.return_key = return_key
        self.context_key = context_key
        self.observation_key = observation_key
        self.evidence_key = evidence_key
        self._offline_draw = offline_draw
        self._random_policy = RandomPolicy(env.action_spec)
        self._evidence_keys = [_below(evidence_key, key) for key in context_encoder.in_keys]

    def prior_context(self) -> Tensor:
        """Zeros ``[n, d]``, on the environment's device."""
        return torch.zeros(self.task_ids.numel(), self.context_dim, device=self.env.device)

    def draw_offline(self, task_ids: Tensor, generator: torch.Generator) -> TensorDictBase:
        """Episodes from offline data; an error if the collector was built without."""
        if self._offline_draw is None:
            raise ValueError(
                "MetaTestCollector: the 'offline' protocol needs episodes from the test tasks' own datasets; "
                "pass offline_draw=, or choose another protocol."
            )
        return self._evidence(self._offline_draw(task_ids, generator))

    def _evidence(self, episode: TensorDictBase) -> TensorDictBase:
        """Keep what contexts and returns are computed from."""
        return episode.select(
            *self._evidence_keys,
            self.observation_key,
            join_key("next", self.observation_key),
            self.return_key,
            "mask",
        )

    @torch.no_grad()
    def rollout(self, task_context: Tensor | None, *, stochastic: bool = False) -> TensorDictBase:
        """One episode of every row: with its context, or of uniformly random actions when that is None."""
        policy = self._random_policy
        if task_context is not None:
            policy = _ContextPolicy(self.actor, self.context_key, task_context)
        exploration = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
        with set_exploration_type(exploration):
            episode = self.env.rollout(self.horizon, policy, break_when_any_done=False)
        done = episode.get(("next", "done")).squeeze(-1).long()
        return self._evidence(episode.set("mask", done.cumsum(-1) - done == 0))

    @torch.no_grad()
    def encode(self, context: TensorDictBase) -> Tensor:
        """Task contexts ``[n, d]`` of contexts ``[n, L]``."""
        view = TensorDict({self.evidence_key: context.copy()}, batch_size=context.batch_size[:1])
        names = self.context_encoder.out_keys
        return self.context_encoder(view).get(self.context_key if self.context_key in names else names[-1])

    @torch.no_grad()
    def run(self, protocol: AdaptationProtocol, *, seed: int = 0) -> TensorDict:
        """Adapt all rows under a protocol.

        The global random state is left as it was: random actions and stochastic policies draw from ``seed``.

        Returns:
            TensorDict ``[n]`` with ``task_id`` ``[n]``, ``returns`` ``[n, E]`` (entry k: measured after k
            collected episodes), ``task_context`` ``[n, E, d]`` used for each measurement, ``first_path`` and
            ``last_path`` ``[n, H+1, observation]``: the first collected and the last measured episode.
        """
        with torch.random.fork_rng(), _evaluating(self.actor, self.context_encoder):
            torch.manual_seed(seed)
            self.env.set_seed(seed)
            state = AdaptationRun(self, torch.Generator().manual_seed(seed))
            protocol.reset(state)
            contexts, returns = [], []
            for collected in range(protocol.episodes):
                contexts.append(protocol.context(state))
                measured = state.play(contexts[-1])
                returns.append(state.episode_return(measured))
                if collected + 1 < protocol.episodes:
                    protocol.collect(state)
        first = state.episodes[0] if state.episodes else measured
        return TensorDict(
            {
                "task_id": self.task_ids,
                "returns": torch.stack(returns, 1),
                "task_context": torch.stack(contexts, 1),
                "first_path": _path(first, self.observation_key),
                "last_path": _path(measured, self.observation_key),
            },
            batch_size=self.task_ids.shape,
        )


def _below(root: NestedKey, key: NestedKey) -> NestedKey:
    """The rest of ``key`` below ``root``."""
    rest = rest_of_key(key, root)
    if not rest:
        raise ValueError(
            f"MetaTestCollector: the context encoder reads {key!r}, which is not below {root!r}; pass "
            "evidence_key= the root of what it reads (entries of episodes, one tensor per feature)."
        )
    return rest


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; the modes from before afterwards, errors or not."""
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.train(mode)


def _path(episode: TensorDictBase, key: NestedKey) -> Tensor:
    """Observations along an episode ``[n, H]``: ``[n, H+1, k]``; after an early end the last one stays."""
    observations = torch.cat([episode.get(key)[:, :1], episode.get(join_key("next", key))], 1)
    steps = torch.arange(observations.shape[1], device=observations.device)
    shown = torch.minimum(steps, episode.get("mask").sum(-1, keepdim=True))
    return observations.gather(1, shown.unsqueeze(-1).expand_as(observations))
