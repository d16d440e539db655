"""The networks of the PPO behavior agent: input features, Gaussian policy and value network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: bounds of the logarithm of the policy's standard deviation
LOG_DEVIATION_BOUNDS = (-2.5, 0.3)


class ToldFeatures(nn.Module):
    """Concatenates observations, standardized with running statistics and clipped, with task parameters.

    Args:
        task_parameters: ``[tasks, k]``, standardized.
        observation_dim: size of an observation.
        clip: bound of the standardized observation.
    """

    #: maximum sample count of the running statistics
    MEMORY = 5e6
    task_parameters: Tensor
    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, task_parameters: Tensor, observation_dim: int, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("task_parameters", task_parameters.clone())
        self.register_buffer("mean", torch.zeros(observation_dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(observation_dim, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def forward(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Observations ``[*, d]`` and task ids ``[*]``; features ``[*, d + k]``."""
        scaled = (observation - self.mean.float()) * (self.variance + 1e-6).rsqrt().float()
        return torch.cat([scaled.clamp(-self.clip, self.clip), self.task_parameters[task_id]], -1)

    @torch.no_grad()
    def observe(self, observation: Tensor) -> None:
        """Update the statistics with observations ``[*, d]``."""
        rows = observation.flatten(0, -2).double()
        variance, mean = torch.var_mean(rows, 0, correction=0)
        total, shift = self.count + len(rows), mean - self.mean
        spread = self.variance * self.count + variance * len(rows)
        self.variance.copy_((spread + shift**2 * self.count * len(rows) / total) / total)
        self.mean.add_(shift * len(rows) / total)
        self.count.copy_(total.clamp(max=self.MEMORY))


def tanh_network(sizes: Sequence[int], last_scale: float = 1.0) -> nn.Sequential:
    """An MLP with tanh between its layers; the last layer's weights are scaled and its bias is zero."""
    layers: list[nn.Module] = []
    for size, width in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(size, width), nn.Tanh()]
    last = nn.Linear(sizes[-2], sizes[-1])
    with torch.no_grad():
        last.weight.mul_(last_scale)
        last.bias.zero_()
    return nn.Sequential(*layers, last)


class GaussianNetwork(nn.Module):
    """Mean of the unsquashed action from features, and a standard deviation that depends only on the task.

    Separate standard deviations let a task without success keep exploring while others become precise.

    Args:
        sizes: sizes of the input, the hidden layers and the output.
        told: number of task parameters, which are the last features.
        deviation: initial standard deviation.
    """

    def __init__(self, sizes: Sequence[int], told: int, deviation: float) -> None:
        super().__init__()
        self.mean = tanh_network(sizes, last_scale=0.01)
        self.told = told
        self.log_deviation = nn.Linear(told, sizes[-1])
        with torch.no_grad():
            self.log_deviation.weight.zero_()
            self.log_deviation.bias.fill_(math.log(deviation))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[*, d]``; mean and standard deviation ``[*, actions]``."""
        log_deviation = self.log_deviation(features[..., features.shape[-1] - self.told :])
        return self.mean(features), log_deviation.clamp(*LOG_DEVIATION_BOUNDS).exp()
