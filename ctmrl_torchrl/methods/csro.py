"""CSRO (Gao et al.; NeurIPS 2023): FOCAL with a penalty on behavior information in contexts.

- encoder: mean of transition contexts
- representation loss: :class:`~ctmrl_torchrl.objectives.representation.csro.CSROLoss`, the metric loss and
  CLUB's bound on the information that a transition's context shares with state and action
- part: :class:`PosteriorTraining`, the inner steps of the bound's density model
- tasks are sampled without replacement, as released, so contexts only repel each other
- protocol as published: ``np_csro``
- policy loss as published: ``brac_sac`` with the behavior penalty
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase

from ctmrl_torchrl.methods.base import REPRESENTATIONS, Facts, RepresentationConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.behaviour_posterior import make_behaviour_posterior
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.objectives.representation.csro import CSROLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, WIDTHS, require, ruled


class PosteriorTraining(Part):
    """Makes one step of the density model before every update, on the same contexts.

    Args:
        loss (MetaLoss): its representation loss is a
            :class:`~ctmrl_torchrl.objectives.representation.csro.CSROLoss`.
        rate (float): learning rate of Adam.
    """

    name = "behaviour_posterior"
    metric_groups = {"posterior_error": "behaviour"}

    def __init__(self, loss: MetaLoss, rate: float) -> None:
        self.loss = loss
        self.optimizer = torch.optim.Adam(loss.representation.behaviour_posterior.parameters(), rate)

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Make one step of the density model, unless the encoder is frozen and the bound is not used."""
        if self.loss.representation_frozen:
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.representation.posterior_error(batch, contexts["transition_contexts"]).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state; the model is saved with the loss."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])


@REPRESENTATIONS.register("csro")
@dataclass
class CSROConfig(RepresentationConfig):
    """Configuration of CSRO's loss and density model.

    Args:
        metric_weight (float): weight of FOCAL's term.
        club_weight (float): lambda. Released: 25 (point robots, hopper, walker), 10 (half cheetah), 50 (ant).
        posterior_hidden (list of int): hidden layers of the density model.
        posterior_rate (float): its learning rate.

    Examples:
        >>> import torch
        >>> statistics = {"observation": (torch.zeros(1), torch.ones(1))}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> CSROConfig(posterior_hidden=[8]).build(problem, 4).out_keys
        ['loss_metric', 'loss_club', 'context_distance', 'posterior_error']
    """

    uses_transition_contexts: ClassVar[bool] = True

    name: str = "csro"
    metric_weight: float = ruled(10.0, POSITIVE)
    club_weight: float = ruled(25.0, NOT_NEGATIVE)
    posterior_hidden: list[int] = ruled([200, 200, 200], WIDTHS)
    posterior_rate: float = ruled(3e-4, POSITIVE)

    def build(self, problem: Problem, context_dim: int) -> CSROLoss:
        """Build the density model and the loss."""
        guess = make_behaviour_posterior(
            observation_dim=problem.observation_dim,
            action_dim=problem.action_dim,
            context_dim=context_dim,
            hidden=self.posterior_hidden,
            observation_statistics=problem.statistics["observation"],
        )
        return CSROLoss(guess, metric_weight=self.metric_weight, club_weight=self.club_weight)

    def parts(self, setting: Setting) -> list[Part]:
        """The density model's inner steps, if the bound is enabled."""
        return [PosteriorTraining(setting.loss, self.posterior_rate)] if self.club_weight else []

    def parameter_groups(self, loss: MetaLoss) -> list[ParameterGroup]:
        """Only the encoder, because the density model has a separate optimizer."""
        return [ParameterGroup.of("representation", [loss.context_encoder], schedule="representation")]

    def check(self, facts: Facts) -> None:
        """Check that per-transition contexts have the size of task contexts."""
        require(
            facts.encoder.compares_transitions,
            "encoder.pool",
            getattr(facts.encoder, "pool", facts.encoder.name),
            "'mean' with representation=csro, whose bound needs per-transition contexts with the size of task "
            "contexts",
        )
