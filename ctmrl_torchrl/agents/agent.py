"""A standalone agent: context encoder and policy, which can be saved, loaded and adapted to tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.agents.card import CARD, WEIGHTS, AgentCard, AgentError, plain_problem, problem_of
from ctmrl_torchrl.agents.exported import export_agent
from ctmrl_torchrl.agents.files import check_networks, check_sizes, read_agent, write_agent
from ctmrl_torchrl.agents.inputs import (
    attribute_of,
    require_environment,
    require_evidence,
    require_sizes,
    require_state,
)
from ctmrl_torchrl.agents.shipped import agent_folder
from ctmrl_torchrl.collectors import PROTOCOLS, MetaTestCollector, ProtocolSettings
from ctmrl_torchrl.collectors.run import OfflineDraw
from ctmrl_torchrl.modules.encoder_configs import ENCODERS, ContextEncoderConfig
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import ConfigError, check_fields, is_whole, require


@dataclass
class Adaptation:
    """The result of adapting an agent to an environment's tasks.

    Args:
        task_context (Tensor): ``[n, d]``, the final contexts.
        returns (Tensor): ``[n, E]``; entry k was measured after k collected episodes.
        episodes (TensorDict): ``[n, E - 1, H]``, the collected episodes with their ``mask``.
        run (TensorDict): ``[n]``, the complete output of :meth:`MetaTestCollector.run
            <ctmrl_torchrl.collectors.MetaTestCollector.run>`.
    """

    task_context: Tensor
    returns: Tensor
    episodes: TensorDict
    run: TensorDict


class Agent:
    """A trained agent that encodes evidence about a task and acts on the context.

    Args:
        card (AgentCard): description of the agent.
        context_encoder (TensorDictModule): reads keys below ``context`` (and ``task_id`` if it has privileged
            task information), writes ``task_context``.
        actor (TensorDictModule): ``(observation, task_context) -> action``.
        candidates (Tensor, optional): ``[N, d]``, contexts that protocol ``codes`` tries.

    Examples:
        >>> from ctmrl_torchrl.modules import EncoderConfig
        >>> from ctmrl_torchrl.objectives.policy import BRACSACConfig
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(2), torch.ones(2)) for key in keys}
        >>> statistics["next", "reward"] = torch.zeros(1), torch.ones(1)
        >>> problem = Problem(2, 2, 0.9, ("next", "reward"), False, statistics)
        >>> agent = Agent.build("ctmrl", "point_robot", problem, EncoderConfig(hidden=[8], context_dim=4),
        ...                     BRACSACConfig(hidden=[8]), horizon=20)
        >>> agent.act(torch.zeros(3, 2), agent.prior_context(3)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        card: AgentCard,
        context_encoder: TensorDictModuleBase,
        actor: TensorDictModuleBase,
        candidates: Tensor | None = None,
    ) -> None:
        self.card = card
        self.context_encoder = context_encoder.eval()
        self.actor = actor.eval()
        self.candidates = candidates
        self._problem = problem_of(card.problem)

    @classmethod
    def build(
        cls,
        method: str,
        env: str,
        problem: Problem,
        encoder: ContextEncoderConfig,
        policy_loss: PolicyLossConfig,
        *,
        transition_key: str | None = None,
        **card: Any,
    ) -> Agent:
        """Create an untrained agent with these sizes.

        Args:
            method, env (str): entries of the card. problem (Problem): sizes and keys.
            encoder, policy_loss: configurations that build encoder and actor.
            transition_key (str, optional): the encoder's key of per-transition contexts.
            card: other fields of :class:`AgentCard`, such as ``horizon``.
        """
        plain = plain_problem(problem)
        description = AgentCard(
            method, env, plain, asdict(encoder), asdict(policy_loss), transition_key=transition_key, **card
        )
        context_encoder = encoder.build(problem, transition_key)
        actor = policy_loss.networks(problem, encoder.size(problem))[0]
        return cls(description, context_encoder, actor)

    @classmethod
    def load(cls, source: str | Path) -> Agent:
        """Load an agent from a finished run's folder, a folder written by :meth:`save`, or by name.

        Loading needs neither data nor training code, and does not use pickle. The agent computes with the dtype
        that it was saved with, on the CPU.

        Args:
            source: a folder, or a name in :func:`~ctmrl_torchrl.agents.shipped_agents`. A folder that contains
                an agent precedes a shipped agent of the same name.

        Raises:
            AgentError: if there is no such agent, or card and weights do not match.

        Examples:
            >>> Agent.load("point_robot").card.env
            'point_robot'
        """
        folder = agent_folder(source)
        card, weights = read_agent(folder)
        card = replace(card, weights="")
        check_sizes(card, weights, folder / CARD)
        problem = problem_of(card.problem)
        encoder = _configuration(ENCODERS, card.encoder, "encoder")
        policy_loss = _configuration(POLICY_LOSSES, card.policy_loss, "policy_loss")
        context_encoder = encoder.build(problem, card.transition_key)
        actor = policy_loss.networks(problem, encoder.size(problem))[0]
        agent = cls(card, context_encoder, actor)
        dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(dtypes) == 1:  # saved after to(torch.float64), for instance
            agent.to(dtypes.pop())
        agent._fill(weights, folder / WEIGHTS)
        check_networks(folder / WEIGHTS, card)
        return agent

    def _fill(self, weights: dict[str, Tensor], file: Path) -> None:
        self.candidates = weights.pop("candidates", None)
        own = _state(self.context_encoder, self.actor)
        wrong = sorted(set(own) ^ set(weights))
        wrong += [
            name
            for name in own
            if name in weights
            and (own[name].shape, own[name].dtype) != (weights[name].shape, weights[name].dtype)
        ]
        if wrong:
            raise AgentError(f"{file} does not match its card: {', '.join(wrong[:4])} differ.")
        broken = [name for name, value in weights.items() if not value.isfinite().all()]
        if broken:
            raise AgentError(f"{file}: {', '.join(broken[:4])} are not finite.")
        for name, value in weights.items():
            own[name].data.copy_(value)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write card and weights to ``folder`` and return it. An existing agent is replaced.

        If the process is killed at any step, :meth:`load` reads the old agent or the new one.

        Args:
            folder: created if missing. overwrite: replace any files with the same names.

        Raises:
            AgentError: if the folder cannot be used, or contains other files with these names.
        """
        weights = {
            name: value.detach().cpu().contiguous().clone()
            for name, value in _state(self.context_encoder, self.actor).items()
        }
        if self.candidates is not None:
            weights["candidates"] = self.candidates.detach().cpu().contiguous().clone()
        return write_agent(folder, self.card, weights, overwrite=overwrite)

    def export(self, folder: str | Path) -> Path:
        """Write the agent as programs that run where only torch is installed, and return the folder.

        ``torch.export.load(file).module()`` loads a program, on the CPU:

        - ``act.pt2``: ``(observation [n, o], task_context [n, d])`` to the deterministic action ``[n, a]``
        - ``encode.pt2``: ``(observation [n, L, o], action [n, L, a], next_reward [n, L, 1], mask [n, L])`` to the
          context ``[n, d]``; ``exported.json`` lists the arguments of this agent.

        ``exported.json`` also contains the card, ``context_dim`` and the contexts that protocol ``codes`` tries.

        Args:
            folder: created if missing; it must not contain one of these files.

        Raises:
            AgentError: if the folder cannot be used, or the encoder reads entries of unknown size.
        """
        return export_agent(
            folder,
            self.card,
            self.context_encoder,
            self.actor,
            context_dim=self.context_dim,
            candidates=self.candidates,
        )

    def to(self, device: torch.device | torch.dtype | str) -> Agent:
        """Move the networks and the candidates to a device or dtype and return the agent."""
        self.context_encoder.to(device)
        self.actor.to(device)
        if self.candidates is not None:
            self.candidates = self.candidates.to(device)
        return self

    @property
    def context_dim(self) -> int:
        """Size d of a context."""
        encoder = _configuration(ENCODERS, self.card.encoder, "encoder")
        return encoder.size(self._problem)

    def prior_context(self, rows: int) -> Tensor:
        """The context before any evidence: zeros ``[rows, d]``."""
        own = next(self.actor.parameters())
        return torch.zeros(rows, self.context_dim, device=own.device, dtype=own.dtype)

    @torch.no_grad()
    def encode(self, transitions: TensorDictBase) -> Tensor:
        """Contexts ``[n, d]`` of transitions ``[n, L]`` in TorchRL's layout, with or without a ``mask``.

        Raises:
            TypeError: if the transitions are not a TensorDict of tensors.
            KeyError: if an entry that the encoder reads is missing.
            ValueError: for an encoder that reads the task id, or an entry of another shape, type or device than
                the agent's, or with a number that is not finite.
        """
        require_evidence(transitions, self.context_encoder, self._problem)
        view = TensorDict({"context": transitions.copy()}, batch_size=transitions.batch_size[:1])
        return self.context_encoder(view).get(self.context_encoder.out_keys[-1])

    @torch.no_grad()
    def act(self, observation: Tensor, task_context: Tensor, *, stochastic: bool = False) -> Tensor:
        """Actions ``[n, a]`` in [-1, 1] for observations ``[n, o]`` and contexts ``[n, d]``.

        Raises:
            TypeError: if one of them is not a tensor.
            ValueError: for another shape, type or device than the agent's, or a number that is not finite.
        """
        require_state(
            observation,
            task_context,
            self.actor,
            observation_dim=self._problem.observation_dim,
            context_dim=self.context_dim,
        )
        batch = TensorDict(
            {"observation": observation, "task_context": task_context}, batch_size=observation.shape[:1]
        )
        kind = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
        with set_exploration_type(kind):
            return self.actor(batch).get(self.actor.out_keys[-1])

    def adapt(
        self,
        env: EnvBase | Callable[[Tensor], EnvBase],
        protocol: str = "np",
        *,
        task_ids: Tensor | None = None,
        episodes: int | None = None,
        random_episodes: int | None = None,
        offline_draw: OfflineDraw | None = None,
        seed: int = 0,
    ) -> Adaptation:
        """Adapt to the tasks of an environment, with all rows in parallel.

        Args:
            env (EnvBase): batched, e.g. ``make_env("point_robot", [2, 6])``, or a custom environment
                with the same keys as the agent's training data.
            protocol (str): a registered adaptation protocol.
            task_ids (Tensor, optional): ``[n]``, the task of each row; by default ``env.task_ids``, or 0, 1,
                ... where the environment has none.
            episodes, random_episodes (int, optional): budget; defaults to that of the agent's meta-test.
            offline_draw (callable, optional): ``(task_ids, generator) -> [n, H]`` episodes with ``mask``, for
                protocols that need data of the tasks, such as ``offline``:
                ``partial(ctmrl_torchrl.data.draw_episode, dataset)``.
            seed (int): seed of the environment and the protocol.

        Raises:
            UnknownChoiceError: for an unknown protocol.
            ValueError: for a protocol without the offline data or the encoder that it needs, an environment with
                other sizes or a wider type, or a function that makes one without ``task_ids``.
            ConfigError: for a budget that is not a whole number, or too small for the protocol.
            TypeError: if ``env`` is no environment of TorchRL and no function.
        """
        require_environment(env, task_ids)
        choice = PROTOCOLS.get(protocol)
        if choice.needs_offline_data and offline_draw is None:
            raise ValueError(
                f"protocol {protocol!r} needs the task's offline data, which an agent does not have; "
                "give offline_draw=, or choose np, np_refine, online or codes."
            )
        encoder = _configuration(ENCODERS, self.card.encoder, "encoder")
        if choice.encodes_unseen_tasks and not encoder.encodes_unseen_tasks:
            without = sorted(name for name, kind in PROTOCOLS.items() if not kind.encodes_unseen_tasks)
            raise ValueError(
                f"protocol {protocol!r} encodes evidence of unseen tasks, while this agent's encoder "
                f"{encoder.name!r} knows only its training tasks; choose from {', '.join(without)}."
            )
        rows = task_ids
        if rows is None:
            rows = attribute_of(env, "task_ids")
        if rows is None:
            rows = torch.arange(env.batch_size.numel())
        for name, value in (("episodes", episodes), ("random_episodes", random_episodes), ("seed", seed)):
            least = 0 if name == "seed" else 1
            require(
                value is None or (is_whole(value) and value >= least),
                name,
                value,
                f"a whole number of at least {least}",
            )
        if isinstance(env, EnvBase):
            require_sizes(env, self._problem, self.prior_context(0).dtype, self.card.env)
        candidates = self.candidates
        settings = ProtocolSettings(
            episodes=self.card.episodes if episodes is None else episodes,
            random_episodes=self.card.random_episodes if random_episodes is None else random_episodes,
            candidates=None if candidates is None else lambda: candidates,
            num_candidates=None if candidates is None else candidates.shape[0],
            encodes_unseen_tasks=encoder.encodes_unseen_tasks,
        )
        choice.check(settings)
        collector = MetaTestCollector(
            env,
            self.actor,
            self.context_encoder,
            task_ids=torch.as_tensor(rows).cpu(),
            horizon=attribute_of(env, "horizon", self.card.horizon),
            context_dim=self.context_dim,
            return_key=self._problem.reward_key,
            offline_draw=offline_draw,
        )
        with collector:
            run = collector.run(choice.from_settings(settings), seed=seed, keep_episodes=True)
        return Adaptation(run["task_context"][:, -1], run["returns"], run["collected"], run)

    def with_card(self, **changes: Any) -> Agent:
        """The same networks with changed fields of the card."""
        return Agent(replace(self.card, **changes), self.context_encoder, self.actor, self.candidates)

    def __repr__(self) -> str:
        size = sum(value.numel() for value in _state(self.context_encoder, self.actor).values())
        return f"Agent(method={self.card.method!r}, env={self.card.env!r}, {size:,} numbers)"


def _state(encoder: nn.Module, actor: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of both networks, by name, without copies."""
    return {
        f"{part}.{name}": value
        for part, module in (("encoder", encoder), ("actor", actor))
        for name, value in module.state_dict(keep_vars=True).items()
    }


def _configuration(registry: Any, values: Mapping[str, Any], section: str) -> Any:
    name = values.get("name")
    if not isinstance(name, str) or name not in registry:
        raise AgentError(
            f"the agent's card: {section}.name={name!r} is not registered here; import the plugin that "
            f"defines it first. Known: {', '.join(sorted(registry))}."
        )
    try:
        configuration = registry.get(name)(**values)
        check_fields(configuration, section)
    except TypeError as error:
        raise AgentError(
            f"the agent's card: {section} has other fields than this version ({error})."
        ) from error
    except ConfigError as error:
        raise AgentError(f"the agent's card: {str(error).removeprefix('config field ')}") from error
    return configuration
