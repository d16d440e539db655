"""ER-TRL (AAAI 2025): FOCAL's metric and an entropy term that removes behavior information from contexts.

- encoder: mean of transition contexts
- representation loss: :class:`~ctmrl_torchrl.objectives.representation.er_trl.BehaviourEntropyLoss`, the
  distance metric minus the entropy of generated actions given the context
- part: :class:`BehaviourImitation`, the inner loop of the conditional GAN that generates them
- policy loss as published: ``brac_sac`` with the behavior penalty
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey

from ctmrl_torchrl.methods.base import REPRESENTATIONS, Facts, RepresentationConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.behaviour_gan import BehaviourGAN
from ctmrl_torchrl.modules.generative import make_behaviour_discriminator, make_behaviour_generator
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.objectives.representation.er_trl import BehaviourEntropyLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, WIDTHS, require, ruled, whole


class BehaviourImitation(Part):
    """The inner loop: discriminator and generator learn with separate optimizers before every update.

    The loss's state holds their parameters, and the part's state holds their optimizers. They are not trained
    while the encoder is frozen.

    Args:
        loss (MetaLoss): its representation loss is a :class:`BehaviourEntropyLoss`.
    """

    name = "behaviour_imitation"
    stackable = False
    metric_groups = {"behaviour_entropy": "behaviour", "gan_accuracy": "behaviour"}

    def __init__(self, loss: MetaLoss) -> None:
        self.loss = loss

    @property
    def in_keys(self) -> list[NestedKey]:
        """The behavior's actions, which the discriminator reads."""
        keys = self.loss.representation.tensor_keys
        return [join_key(keys.transitions, keys.action)]

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Train both networks on the behavior in the batch, given its contexts."""
        if self.loss.representation_frozen:
            return
        representation = self.loss.representation
        shown = representation.behaviour(batch, contexts["task_context"])
        numbers = representation.gan.inner_steps(shown)
        representation.gan_accuracy.copy_(numbers["gan_accuracy"])

    def state_dict(self) -> dict[str, Any]:
        """State of both optimizers."""
        return {"optimizers": self.loss.representation.gan.optimizer_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.loss.representation.gan.load_optimizer_state(state["optimizers"])


@REPRESENTATIONS.register("er_trl")
@dataclass
class ERTRLConfig(RepresentationConfig):
    """Configuration of :class:`BehaviourEntropyLoss`; an entropy weight of 0 is FOCAL.

    Args:
        metric_weight, entropy_weight (float): weights of the terms; published 10, and 2.5 (half cheetah) or 5
            (ant, hopper, walker).
        noise_dim (int): size of the generator's noise.
        rounds (int): steps of discriminator and generator before every update.
        gan_rate (float): learning rate of both networks.
        generator_hidden, discriminator_hidden (list of int): hidden layers.

    Examples:
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> ERTRLConfig(entropy_weight=5.0).build(problem, 4).entropy_weight
        5.0
    """

    name: str = "er_trl"
    metric_weight: float = ruled(10.0, POSITIVE)
    entropy_weight: float = ruled(2.5, NOT_NEGATIVE)
    noise_dim: int = ruled(20, whole(1), allocates="once")
    rounds: int = ruled(5, whole(1))
    gan_rate: float = ruled(2e-4, POSITIVE)
    generator_hidden: list[int] = ruled([200, 200, 200], WIDTHS)
    discriminator_hidden: list[int] = ruled([256, 256], WIDTHS)

    def build(self, problem: Problem, context_dim: int) -> BehaviourEntropyLoss:
        """Build the loss with generator and discriminator.

        They are initialized separately, so that the term does not change other parts of an agent with the same
        seed.
        """
        gan = None
        if self.entropy_weight:
            sizes: dict[str, Any] = {
                "observation_dim": problem.observation_dim,
                "context_dim": context_dim,
                "action_dim": problem.action_dim,
            }
            with torch.random.fork_rng():
                gan = BehaviourGAN(
                    make_behaviour_generator(**sizes, noise_dim=self.noise_dim, hidden=self.generator_hidden),
                    make_behaviour_discriminator(**sizes, hidden=self.discriminator_hidden),
                    noise_dim=self.noise_dim,
                    rate=self.gan_rate,
                    rounds=self.rounds,
                )
        return BehaviourEntropyLoss(gan, metric_weight=self.metric_weight, entropy_weight=self.entropy_weight)

    def parts(self, setting: Setting) -> list[Part]:
        """The inner loop, if the entropy weight is not 0."""
        return [BehaviourImitation(setting.loss)] if self.entropy_weight else []

    def parameter_groups(self, loss: MetaLoss) -> list[ParameterGroup]:
        """Only the encoder, because generator and discriminator have separate optimizers."""
        return [ParameterGroup.of("representation", [loss.context_encoder], schedule="representation")]

    def check(self, facts: Facts) -> None:
        """Check that the entropy is computed from several actions per task."""
        require(
            facts.transitions > 1 or not self.entropy_weight,
            "batch.transitions",
            facts.transitions,
            "at least 2 with representation=er_trl, which estimates a covariance of each task's actions",
        )
