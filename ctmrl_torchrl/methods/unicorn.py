"""UNICORN (Li et al.; NeurIPS 2024): upper and lower bounds on the task information in contexts.

- encoder: mean of tanh of noisy transition codes (``encoder.last=noisy``), from transitions with next
  observation and ``terminated``
- representation loss: :class:`~ctmrl_torchrl.objectives.representation.unicorn.UNICORNLoss`, FOCAL's metric loss
  and the Gaussian likelihood of reward and change of the observation
- ``unicorn_sup``: :class:`~ctmrl_torchrl.objectives.representation.unicorn.TaskClassificationLoss` instead
- tasks are sampled with replacement; a context is one complete trajectory, as published
- policy loss as published: ``sac``
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP

from ctmrl_torchrl.methods.base import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.modules.decoders import make_gaussian_predictor
from ctmrl_torchrl.objectives.representation.unicorn import TaskClassificationLoss, UNICORNLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import POSITIVE, SWITCH, WIDTHS, list_of, ruled, whole


@REPRESENTATIONS.register("unicorn")
@dataclass
class UNICORNConfig(RepresentationConfig):
    """Configuration of UNICORN's loss and decoders.

    Args:
        metric_weight (float): beta. Released: 0.15 (cheetah, ant), 1.5 (hopper), 0.7 (walker).
        decode (bool): whether to use decoders; without them only the metric loss remains.
        predictor_hidden (list of int): hidden layers of the decoders.
        standardised_targets (bool): whether to standardize rewards and changes; released: no.

    Examples:
        >>> import torch
        >>> keys = ("observation", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> UNICORNConfig(predictor_hidden=[8]).build(problem, 4).out_keys
        ['loss_metric', 'loss_change', 'loss_reward', 'context_distance']
    """

    name: str = "unicorn"
    metric_weight: float = ruled(0.15, POSITIVE)
    decode: bool = ruled(True, SWITCH)
    predictor_hidden: list[int] = ruled([64, 64], WIDTHS)
    standardised_targets: bool = ruled(True, SWITCH)

    @property
    def protocol_options(self) -> tuple[str, ...]:
        """The decoder predicts rewards."""
        return ("reward_predictor",) if self.decode else ()

    def build(self, problem: Problem, context_dim: int) -> UNICORNLoss:
        """Build the decoders and the loss."""
        if not self.decode:
            return UNICORNLoss(metric_weight=self.metric_weight)
        decoders = (
            make_gaussian_predictor(
                observation_dim=problem.observation_dim,
                action_dim=problem.action_dim,
                context_dim=context_dim,
                out_features=size,
                hidden=self.predictor_hidden,
                observation_statistics=problem.statistics["observation"],
            )
            for size in (problem.observation_dim, 1)
        )
        change, reward = problem.statistics["observation_change"], problem.statistics[problem.reward_key]
        loss = UNICORNLoss(
            *decoders,
            metric_weight=self.metric_weight,
            change_statistics=change if self.standardised_targets else None,
            reward_statistics=reward if self.standardised_targets else None,
        )
        loss.set_keys(reward=problem.reward_key)
        return loss


@REPRESENTATIONS.register("unicorn_sup")
@dataclass
class UNICORNSupConfig(RepresentationConfig):
    """Configuration of UNICORN's supervised variant.

    Args:
        classification_weight (float): weight of the only term.
        classifier_hidden (list of int): hidden layers of the classifier; an empty list for a linear one.

    Examples:
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, {}, num_tasks=5, train_ids=(0, 3))
        >>> UNICORNSupConfig().build(problem, 4).task_ids
        tensor([0, 3])
    """

    name: str = "unicorn_sup"
    classification_weight: float = ruled(1.0, POSITIVE)
    classifier_hidden: list[int] = ruled([], list_of(whole(1), 0))

    def build(self, problem: Problem, context_dim: int) -> TaskClassificationLoss:
        """Build the classifier and the loss."""
        task_ids = problem.train_ids or range(problem.num_tasks)
        network = MLP(
            in_features=context_dim,
            out_features=len(task_ids),
            num_cells=list(self.classifier_hidden),
            activation_class=nn.ReLU,
        )
        classifier = TensorDictModule(network, ["task_context"], ["task_logits"])
        return TaskClassificationLoss(classifier, task_ids, weight=self.classification_weight)
