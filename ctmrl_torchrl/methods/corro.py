"""CORRO (Yuan, Lu; ICML 2022): a contrast of transitions with equal state and action, followed by pooling.

- encoder: per-transition codes of unit length (E1), pooled with attention (E2)
- part: :class:`TransitionPretraining`, which trains E1 before meta-training and freezes it
- representation loss: none in meta-training; the critic's gradient trains the pooling
  (``representation.critic_gradient=pooling``)
- a context is one complete trajectory; tasks are sampled with replacement
- policy loss as published: ``sac``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import nn
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data.buffer import take_rows
from ctmrl_torchrl.methods.base import REPRESENTATIONS, Facts, RepresentationConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.keys import rest_of_key
from ctmrl_torchrl.modules.negatives import NEGATIVES
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.objectives.pretraining import Pretraining
from ctmrl_torchrl.objectives.representation.base import NoRepresentationLoss
from ctmrl_torchrl.objectives.representation.corro import OutcomeVAE, TransitionContrast
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import POSITIVE, SWITCH, WIDTHS, among, require, ruled, whole

#: fraction of the loss at chance level above which the contrast counts as having learned nothing
_AT_CHANCE = 0.98


class TaskRows:
    """Samples transitions of random training tasks from any trajectory and time step.

    Args:
        setting (Setting): dataset, tasks and device.
        keys (sequence of NestedKey): entries to gather.
    """

    def __init__(self, setting: Setting, keys: Sequence[NestedKey]) -> None:
        self.rows, self.device = setting.dataset.rows, setting.device
        self.data = setting.dataset.transitions.select(*keys)
        self.tasks = setting.dataset.task_index(setting.train_ids)

    def __call__(self, tasks: int, rows: int, generator: torch.Generator) -> TensorDictBase:
        """Sample transitions ``[tasks, rows]``; each row of the batch belongs to one task."""
        drawn = torch.randint(self.tasks.numel(), (tasks,), generator=generator, device=generator.device)
        index = self.rows.draw_rows(self.tasks[drawn.to(self.tasks.device)], rows, generator)
        return take_rows(self.data, index).to(self.device)


class TransitionPretraining(Part):
    """Pretrains the VAE, if negatives are generated, and then the transition encoder.

    Only training tasks are used, as in the paper; the released script also trains the VAE on test tasks.

    Args:
        setting (Setting): the run's components. config (CORROConfig): sizes and steps.

    Attributes:
        stages (dict): the :class:`~ctmrl_torchrl.objectives.pretraining.Pretraining` stages, in order.
        checkpoint_steps (int): steps of a stage between checkpoints.
    """

    name = "transition_pretraining"
    stackable = False  # the critic's gradient into the pooling cannot be vectorized over seeds
    checkpoint_steps: ClassVar[int] = 2000

    def __init__(self, setting: Setting, config: CORROConfig) -> None:
        self.config = config
        problem, loss = setting.problem, setting.loss
        encoder: Any = loss.context_encoder
        self.network: nn.Module = encoder.transition_network
        following = ("next", "observation")
        draw = TaskRows(setting, ["observation", "action", problem.reward_key, following])
        self.stages: dict[str, Pretraining] = {}
        vae = None
        if config.negatives == "generative":
            vae = config.build_vae(problem, setting.seed).to(setting.device)
            self.stages["vae"] = Pretraining(
                vae,
                lambda generator: vae.error(draw(config.vae_batch, 1, generator), generator).mean(),
                config.vae_steps,
                generator=torch.Generator().manual_seed(setting.seed),
                rate=config.pretraining_rate,
            )
        contrast = TransitionContrast(
            self.network,
            draw,
            in_keys=[
                rest[0] if len(rest) == 1 else rest
                for rest in (rest_of_key(key, loss.tensor_keys.context) or () for key in encoder.in_keys)
            ],
            negatives=config.negatives,
            vae=vae,
            queries=config.queries,
            count=config.negatives_per_query,
            temperature=config.temperature,
            noise=config.reward_noise,
            reward=problem.reward_key,
        )
        self.stages["contrast"] = Pretraining(
            self.network,
            contrast,
            config.contrast_steps,
            generator=torch.Generator().manual_seed(setting.seed + 1),
            rate=config.pretraining_rate,
        )

    def prepare(self, checkpoint: Callable[[], None]) -> None:
        """Run the remaining stages, then freeze the transition encoder."""
        for stage in self.stages.values():
            while not stage.done:
                stage.run(self.checkpoint_steps)
                checkpoint()
        self.network.requires_grad_(False)
        reached, chance = self.stages["contrast"].last_loss, math.log(1 + self.config.negatives_per_query)
        if reached > _AT_CHANCE * chance:
            torchrl_logger.warning(
                f"CORRO's contrast ended at {reached:.2f}, and {chance:.2f} is chance: transition codes do not "
                "distinguish tasks. Choose other negatives: representation.negatives="
                f"{', '.join(each for each in NEGATIVES if each != self.config.negatives)}."
            )

    def summary(self) -> dict[str, Any]:
        """The last mean loss of each stage."""
        errors = {name: stage.last_loss for name, stage in self.stages.items()}
        return {"pretraining": {name: None if math.isnan(error) else error for name, error in errors.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The states of the stages."""
        return {name: stage.state_dict() for name, stage in self.stages.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name, stage in self.stages.items():
            stage.load_state_dict(state[name])


@REPRESENTATIONS.register("corro")
@dataclass
class CORROConfig(RepresentationConfig):
    """Configuration of CORRO's pretraining; in meta-training the critic trains the pooling.

    Args:
        critic_gradient (str): see the base class; ``pooling`` by default.
        negatives (str): source of negatives, ``generative`` (a conditional VAE), ``reward_noise`` or
            ``other_tasks``. Released: noise on point robots and ant, a VAE on cheetah and walker, other tasks
            on hopper.
        queries, negatives_per_query (int): B and M. temperature (float): tau.
        reward_noise (float): standard deviation of the noise on rewards, in raw units.
        contrast_steps, vae_steps (int): steps of the stages. vae_batch (int): transitions per VAE step.
        pretraining_rate (float): learning rate of both stages.
        vae_latent (int), vae_hidden (list of int): sizes. Released: 5 and 64, or 64 and 128 on ant, hopper and
            walker.
        standardised_outcomes (bool): whether the VAE uses standardized outcomes; released: no.

    Examples:
        >>> CORROConfig().build(None, 4).out_keys, CORROConfig().critic_gradient
        ([], 'pooling')
    """

    name: str = "corro"
    critic_gradient: str = ruled("pooling", among("none", "pooling", "all"))
    negatives: str = ruled("generative", among(*NEGATIVES))
    queries: int = ruled(64, whole(1), allocates="per task")
    negatives_per_query: int = ruled(16, whole(1), allocates="per task")
    temperature: float = ruled(0.1, POSITIVE)
    reward_noise: float = ruled(0.5, POSITIVE)
    contrast_steps: int = ruled(200_000, whole(1))
    vae_steps: int = ruled(200_000, whole(1))
    vae_batch: int = ruled(128, whole(1), allocates="once")
    pretraining_rate: float = ruled(3e-4, POSITIVE)
    vae_latent: int = ruled(5, whole(1), allocates="once")
    vae_hidden: list[int] = ruled([64], WIDTHS)
    standardised_outcomes: bool = ruled(True, SWITCH)

    def build(self, problem: Problem, context_dim: int) -> NoRepresentationLoss:
        """Build a loss without terms."""
        return NoRepresentationLoss()

    def build_vae(self, problem: Problem, seed: int) -> OutcomeVAE:
        """Build the conditional VAE; ``seed`` determines its initial parameters."""
        statistics = {
            "observation_statistics": problem.statistics["observation"],
            "change_statistics": problem.statistics["observation_change"],
            "reward_statistics": problem.statistics[problem.reward_key],
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return OutcomeVAE(
                problem.observation_dim,
                problem.action_dim,
                self.vae_latent,
                self.vae_hidden,
                reward=problem.reward_key,
                **(statistics if self.standardised_outcomes else {}),
            )

    def parts(self, setting: Setting) -> list[Part]:
        """The pretraining part."""
        return [TransitionPretraining(setting, self)]

    def parameter_groups(self, loss: MetaLoss) -> list[ParameterGroup]:
        """Only the pooling, because the transition encoder is frozen in meta-training."""
        encoder: Any = loss.context_encoder
        pooling = [] if encoder.pooling is None else [encoder.pooling]
        return [ParameterGroup.of("representation", pooling, schedule="representation")]

    def check(self, facts: Facts) -> None:
        """Check that transition codes have unit length and are followed only by the pooling."""
        for name, allowed in (("pool", ("attention", "mean")), ("last", ("unit",))):
            found = getattr(facts.encoder, name, facts.encoder.name)
            require(
                found in allowed,
                f"encoder.{name}",
                found,
                f"{' or '.join(map(repr, allowed))} with representation=corro, which contrasts "
                "per-transition codes",
            )
        flags = getattr(facts.encoder, "flags", [])
        require(
            not flags,
            "encoder.flags",
            flags,
            "[] with representation=corro, whose pretraining contrasts observations, actions, rewards and next "
            "observations",
        )
