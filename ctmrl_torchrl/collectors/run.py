"""The state of one meta-test and the operations available to protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.collectors.encoding import EvidenceEncoder
from ctmrl_torchrl.collectors.episodes import EpisodeCollector
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.rules import NotFiniteError

#: samples one context episode ``[n, H]`` for each of ``task_ids`` from offline data
OfflineDraw = Callable[[Tensor, torch.Generator], TensorDictBase]


@dataclass(frozen=True)
class RunParts:
    """The components of a meta-test, built by :class:`~ctmrl_torchrl.collectors.MetaTestCollector`.

    Args:
        episodes (EpisodeCollector): collects episodes. encoder (EvidenceEncoder): encodes contexts.
        task_ids (Tensor): ``[n]``, the task of each row. context_dim (int): d.
        return_key (NestedKey): the reported reward. observation_key (NestedKey): key of the paths.
        offline_draw (callable or None): samples episodes from offline data.
    """

    episodes: EpisodeCollector
    encoder: EvidenceEncoder
    task_ids: Tensor
    context_dim: int
    return_key: NestedKey
    observation_key: NestedKey
    offline_draw: OfflineDraw | None


class AdaptationRun:
    """The state of one batched meta-test: the collected episodes and the operations to collect more.

    A protocol reads and extends it. ``n`` is the number of rows (tasks x repeats), ``H`` the horizon.
    Everything that a protocol obtains through it is counted, whether or not it is added to the evidence.

    Args:
        parts (RunParts): components for collecting and encoding.
        protocol (str): name of the protocol, for error messages.
        generator (torch.Generator): source of randomness of the protocol.

    Attributes:
        task_ids (Tensor): ``[n]``.
        episodes (list of TensorDict): collected episodes ``[n, H]`` with ``mask``, the input of the encoder.
        returns (list of Tensor): their returns ``[n]``.
        generator (torch.Generator): see above.
        episode_count, env_steps, oracle_answers (Tensor): ``[n]`` int64, the cost of each row so far:
            episodes collected or sampled for adaptation, valid environment steps of collected episodes, and
            oracle answers (see :meth:`count_oracle_answers`).
        total_env_steps (Tensor): ``[n]`` int64, valid environment steps including measured episodes.
    """

    def __init__(self, parts: RunParts, protocol: str, generator: torch.Generator) -> None:
        self._parts = parts
        self._protocol = protocol
        self._encoded: dict[tuple[int, ...], tuple[list[TensorDictBase], Tensor]] = {}
        self._codes: dict[int, tuple[TensorDictBase, Tensor, Tensor | None]] = {}
        self._measured = 0
        self._told = False
        self.task_ids = parts.task_ids
        self.generator = generator
        self.episodes: list[TensorDictBase] = []
        self.returns: list[Tensor] = []
        nothing = torch.zeros_like(self.task_ids, dtype=torch.int64)
        self.episode_count, self.env_steps = nothing.clone(), nothing.clone()
        self.total_env_steps, self.oracle_answers = nothing.clone(), nothing.clone()

    @property
    def horizon(self) -> int:
        """H, the number of steps of an episode."""
        return self._parts.episodes.horizon

    @property
    def prior_context(self) -> Tensor:
        """The context before any evidence: zeros ``[n, d]``, on the environment's device."""
        parts = self._parts
        return torch.zeros(self.task_ids.numel(), parts.context_dim, device=parts.episodes.env.device)

    def add(self, episode: TensorDictBase) -> None:
        """Append an episode ``[n, H]`` to the evidence."""
        self.episodes.append(episode)
        self.returns.append(self.episode_return(episode))

    def episode_return(self, episode: TensorDictBase) -> Tensor:
        """Sum of the reported reward over the valid steps, ``[n]``."""
        reward = episode.get(self._parts.return_key).squeeze(-1)
        return reward.masked_fill(~episode.get("mask"), 0).sum(-1)

    def play(
        self, task_context: Tensor, *, stochastic: bool = False, random_steps: int = 0
    ) -> TensorDictBase:
        """Collect one episode ``[n, H]`` of the policy with the given contexts ``[n, d]``.

        The first ``random_steps`` steps use uniformly random actions instead.
        """
        self._require_context(task_context)
        episode = self._parts.episodes.play(task_context, stochastic=stochastic, random_steps=random_steps)
        return self._collected(episode)

    def play_randomly(self) -> TensorDictBase:
        """Collect one episode ``[n, H]`` with uniformly random actions."""
        return self._collected(self._parts.episodes.play_randomly())

    def measure(self, task_context: Tensor) -> TensorDictBase:
        """Run one deterministic measured episode ``[n, H]``, which is not part of the collected ones."""
        self._require_context(task_context)
        episode = self._parts.episodes.play(task_context)
        self._measured += 1
        self.total_env_steps += _valid_steps(episode, self.task_ids)
        return self._checked(episode, f"measured episode {self._measured}")

    def draw_offline(self) -> TensorDictBase:
        """Sample one episode ``[n, H]`` from each row's offline dataset.

        Raises:
            ValueError: if the meta-test has no offline data.
        """
        if self._parts.offline_draw is None:
            raise ValueError(
                f"MetaTestCollector: the {self._protocol!r} protocol needs episodes from the test tasks' "
                "datasets; pass offline_draw=, or choose another protocol."
            )
        self.episode_count += 1
        episode = self._parts.offline_draw(self.task_ids, self.generator)
        return self._checked(episode, f"drawn episode {len(self.episodes) + 1}")

    def encode(self, episodes: Sequence[TensorDictBase]) -> Tensor:
        """Task contexts ``[n, d]`` of the given episodes, pooled together.

        An encoder that reads the task id receives those of the rows, and the first context counts as an oracle
        answer. Results for the same collected episodes are cached.
        """
        if self._parts.encoder.reads_task and not self._told:
            self._told = True
            self.count_oracle_answers()
        # The entry keeps the episodes alive, so that no other object can have the same id.
        identity = tuple(map(id, episodes))
        if identity not in self._encoded:
            collected = {*identity} <= {*map(id, self.episodes)}
            if collected and self._parts.encoder.pools_codes:
                context = self._parts.encoder.pool([self._codes_of(episode) for episode in episodes])
            else:
                context = self._parts.encoder.encode(episodes, self._tasks_of_rows())
            if not collected:
                return context
            self._encoded[identity] = list(episodes), context
        return self._encoded[identity][1].clone()

    def _codes_of(self, episode: TensorDictBase) -> tuple[Tensor, Tensor | None]:
        """The codes of a collected episode, computed once."""
        if id(episode) not in self._codes:
            self._codes[id(episode)] = episode, *self._parts.encoder.codes(episode, self._tasks_of_rows())
        return self._codes[id(episode)][1:]

    def encode_task(self) -> Tensor:
        """Task contexts ``[n, d]`` from the rows' task ids, without any evidence.

        Raises:
            ValueError: if the encoder reads more than the task id.
        """
        return self._parts.encoder.encode_task(self._tasks_of_rows())

    def count_oracle_answers(self, answers: int | Tensor = 1) -> None:
        """Count oracle answers: a number for all rows, or one per row ``[n]``.

        A protocol must call this whenever it uses information that an agent could not observe (a label, a
        preference, or the task itself).
        """
        self.oracle_answers += answers

    def _tasks_of_rows(self) -> Tensor:
        return self.task_ids.to(self._parts.episodes.env.device)

    def _collected(self, episode: TensorDictBase) -> TensorDictBase:
        self.episode_count += 1
        steps = _valid_steps(episode, self.task_ids)
        self.env_steps += steps
        self.total_env_steps += steps
        return self._checked(episode, f"collected episode {len(self.episodes) + 1}")

    def _checked(self, episode: TensorDictBase, which: str) -> TensorDictBase:
        """The entries for contexts and returns, or an error if one is missing or not finite."""
        parts = self._parts
        observed = parts.observation_key, join_key("next", parts.observation_key)
        keys = [*parts.encoder.evidence_keys, *observed, parts.return_key, "mask"]
        missing = [key for key in keys if episode.get(key, None) is None]
        if missing:
            found = sorted(map(str, episode.keys(True, True)))
            raise KeyError(
                f"Meta-test under protocol {self._protocol!r}: {which} lacks {missing}, which the context "
                f"encoder or the meta-test reads; it holds {', '.join(found)}. Let the environment (or "
                "offline_draw) write it, or change the keys."
            )
        evidence = episode.select(*keys)
        actions = (parts.episodes.env.action_key,) if which.startswith(("c", "m")) else ()
        for key in (*actions, *keys):
            self._require_finite(episode.get(key, None), episode.get("mask"), key, which)
        return evidence

    def _require_finite(self, value: Tensor | None, mask: Tensor, key: NestedKey, which: str) -> None:
        if value is None or not value.is_floating_point() or value.isfinite().all():
            return
        wrong = ~value.isfinite().reshape(*mask.shape, -1).all(-1) & mask
        if wrong.any():
            row, step = wrong.nonzero()[0].tolist()
            raise NotFiniteError(
                f"Meta-test under protocol {self._protocol!r}: {key!r} of task {self.task_ids[row].item()} "
                f"(row {row}) is not finite at step {step} of {which}. Check the actor's parameters and "
                "the environment of this task."
            )

    def _require_context(self, task_context: Any) -> None:
        expected = [self.task_ids.numel(), self._parts.context_dim]
        if not isinstance(task_context, Tensor) or list(task_context.shape) != expected:
            found = list(task_context.shape) if isinstance(task_context, Tensor) else task_context
            raise ValueError(
                f"Meta-test under protocol {self._protocol!r}: expected contexts {expected}, one per row [n, d], "
                f"got {found} after {len(self.episodes)} collected episodes. A protocol's context(run) returns "
                "them, such as run.prior_context or run.encode(run.episodes); context.expand(n, -1) repeats one "
                "for all rows."
            )
        wrong = ~task_context.isfinite().all(-1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise NotFiniteError(
                f"Meta-test under protocol {self._protocol!r}: the context of task "
                f"{self.task_ids[row].item()} (row {row}) is not finite after {len(self.episodes)} collected "
                "episodes. Check the context encoder's parameters and its input features."
            )


def _valid_steps(episode: TensorDictBase, like: Tensor) -> Tensor:
    """Number of steps until the end of each row, ``[n]`` int64."""
    return episode.get("mask").sum(-1).to(like.device)
