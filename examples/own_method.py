"""A custom method in one file: contexts that predict rewards and lie on a sphere.

python examples/own_method.py                                         # the smoke preset: seconds on a CPU
python examples/own_method.py preset=quick env=point_robot_wind       # any override of examples/train_ctmrl.py
ctmrl --plugin examples/own_method.py train method=spherical          # the same from the console

A method is a representation loss, a configuration that builds it, and values for the other sections.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tensordict import TensorDict
from tensordict.utils import NestedKey

import ctmrl_torchrl
from ctmrl_torchrl.methods import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.modules import make_reward_predictor
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.objectives import RepresentationLoss, TransitionPredictors
from ctmrl_torchrl.rules import NOT_NEGATIVE, WIDTHS, ruled


class SphericalLoss(RepresentationLoss):
    """Errors of predicted rewards, plus the deviation of context norms from 1."""

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        transitions: NestedKey = "transitions"
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = ("next", "reward")
        next_observation: NestedKey = ("next", "observation")
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    out_keys = ["loss_prediction", "loss_length"]

    @property
    def in_keys(self):
        """What forward reads, under the names that set_keys gives."""
        keys = self.tensor_keys
        read = (keys.observation, keys.action, keys.reward)
        return [keys.task_context, *(join_key(keys.transitions, key) for key in read)]

    def __init__(self, predictors, weight):
        super().__init__()
        self.predictors, self.weight = predictors, weight

    def forward(self, tensordict):
        """Compute both terms."""
        keys = self.tensor_keys
        context = tensordict[keys.task_context]
        (error,) = self.predictors.errors(tensordict[keys.transitions], context, keys)
        length = self.weight * (context.norm(dim=-1) - 1.0).square().mean()
        return TensorDict({"loss_prediction": error.mean(), "loss_length": length}, [])


@REPRESENTATIONS.register("spherical")
@dataclass
class SphericalConfig(RepresentationConfig):
    """Fields of ``representation.``, each with a validation rule."""

    name: str = "spherical"
    weight: float = ruled(0.1, NOT_NEGATIVE)
    predictor_hidden: list[int] = ruled([128, 128], WIDTHS)

    def build(self, problem, context_dim):
        """Build the loss and its predictor."""
        sizes = (problem.observation_dim, problem.action_dim, context_dim)
        statistics = problem.statistics[problem.reward_key]
        predictor = make_reward_predictor(
            **dict(zip(("observation_dim", "action_dim", "context_dim"), sizes, strict=True)),
            hidden=self.predictor_hidden,
            target_statistics=statistics,
        )
        predictors = TransitionPredictors(predictor, None, "SphericalLoss", reward_scale=statistics[1])
        loss = SphericalLoss(predictors, self.weight)
        loss.set_keys(reward=problem.reward_key)  # the sparse reward, where contexts hold that one
        return loss


ctmrl_torchrl.register_method(
    "spherical",
    representation="spherical",
    context={"trajectories": [2, 10]},
)

if __name__ == "__main__":
    summary = ctmrl_torchrl.run(["method=spherical", *(sys.argv[1:] or ["preset=smoke"])])
    for protocol, result in summary["returns"]["test"].items():
        print(f"{protocol}: mean return on unseen tasks {result['mean']:.2f}")
