"""Settings of the PPO behavior agent."""

from __future__ import annotations

from dataclasses import dataclass

from ctmrl_torchrl.rules import (
    BETWEEN_ZERO_AND_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    check_fields,
    ruled,
    whole,
)


@dataclass(frozen=True)
class PPOSettings:
    """Settings specific to the PPO agent.

    Args:
        rollout_steps: environment steps per row between two sets of updates.
        round_steps: environment steps per row after which all rows are reset (and a checkpoint may be
            written). The first episodes are truncated at random times, so that rows are desynchronized.
        epochs: passes over the collected steps. minibatches: updates per pass.
        clip: clip range of the probability ratio.
        trace_decay: lambda of generalized advantage estimation.
        entropy_coefficient: weight of the entropy bonus.
        least_divergence, most_divergence: the learning rate is increased below the first and decreased above
            the second, by ``rate_factor``, once per set of updates.
        stop_divergence: passes stop early above this divergence.
        rate_factor: see above. least_rate, most_rate: bounds of the learning rate before annealing.
        last_rate: final fraction of the learning rate after annealing.
        deviation: initial standard deviation of the unsquashed action.
        gradient_norm: maximum gradient norm.
        observation_clip: bound of standardized observations.
        spare_rows: fraction of the rows assigned to the tasks with the lowest returns, updated every round.

    Raises:
        ConfigError: if a field is out of range; the message contains the field.
    """

    rollout_steps: int = ruled(32, whole(1))
    round_steps: int = ruled(1600, whole(1))
    epochs: int = ruled(6, whole(1))
    minibatches: int = ruled(8, whole(1))
    clip: float = ruled(0.2, BETWEEN_ZERO_AND_ONE)
    trace_decay: float = ruled(0.95, SHARE)
    entropy_coefficient: float = ruled(0.002, NOT_NEGATIVE)
    least_divergence: float = ruled(0.013, POSITIVE)
    most_divergence: float = ruled(0.03, POSITIVE)
    stop_divergence: float = ruled(0.06, POSITIVE)
    rate_factor: float = ruled(1.2, POSITIVE)
    least_rate: float = ruled(5e-5, POSITIVE)
    most_rate: float = ruled(2e-3, POSITIVE)
    last_rate: float = ruled(0.1, SHARE)
    deviation: float = ruled(0.6, POSITIVE)
    gradient_norm: float = ruled(1.0, POSITIVE)
    observation_clip: float = ruled(8.0, POSITIVE)
    spare_rows: float = ruled(0.0, SHARE)

    def __post_init__(self) -> None:
        check_fields(self, "settings")
