"""Weight initialization of published methods, for arbitrary networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def lineage_init_(
    network: nn.Module,
    *,
    last: float = 3e-3,
    hidden_bias: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Initialize weights as in PEARL and methods based on it (FOCAL, CSRO, ER-TRL, GENTLE).

    Hidden weights are uniform within ``1 / sqrt(out_features)``, hidden biases are constant, and the last
    layer is uniform within ``last``. Contexts are thus almost zero for every task before training.

    Args:
        network (nn.Module): its ``nn.Linear`` layers are initialized, the last one as an output layer.
        last (float): bound of the last layer; these methods use 1e-3 for policies.
        hidden_bias (float): every bias except the last layer's.
        generator (torch.Generator, optional): samples the weights.

    Returns:
        the network.

    Raises:
        ValueError: if the network has no linear layer.

    Examples:
        >>> network = lineage_init_(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)))
        >>> network[0].weight.abs().max() <= 0.25, network[-1].weight.abs().max() <= 3e-3
        (tensor(True), tensor(True))
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError("lineage_init_: the network has no nn.Linear layer to initialize.")
    for layer in layers[:-1]:
        bound = 1.0 / math.sqrt(layer.out_features)
        layer.weight.uniform_(-bound, bound, generator=generator)
        if layer.bias is not None:
            layer.bias.fill_(hidden_bias)
    layers[-1].weight.uniform_(-last, last, generator=generator)
    if layers[-1].bias is not None:
        layers[-1].bias.uniform_(-last, last, generator=generator)
    return network


@torch.no_grad()
def truncated_normal_(weight: Tensor, fan_in: int, generator: torch.Generator | None = None) -> Tensor:
    """Fill a tensor from a normal with standard deviation ``1 / (2 sqrt(fan_in))``, truncated at two deviations.

    This is the initialization of probabilistic ensembles (PETS), also used by GENTLE's task models and UNICORN's
    decoders.

    Args:
        weight (Tensor): any shape, filled in place. fan_in (int): number of inputs of a unit.
        generator (torch.Generator, optional): samples the weights.

    Returns:
        the tensor.

    Examples:
        >>> bool(truncated_normal_(torch.empty(5, 7, 4), fan_in=4).abs().max() <= 0.5)
        True
    """
    deviation = 1.0 / (2.0 * math.sqrt(fan_in))
    # Uses the inverse normal CDF, which supports a generator on every device.
    edge = math.erf(2.0 / math.sqrt(2.0))
    uniform = torch.empty_like(weight).uniform_(-edge, edge, generator=generator)
    return weight.copy_(torch.erfinv(uniform) * math.sqrt(2.0) * deviation)
