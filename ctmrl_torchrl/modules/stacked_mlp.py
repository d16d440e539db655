"""Many small networks in one module: every layer is one batched matrix product over tasks and members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctmrl_torchrl.modules.initialization import truncated_normal_


class StackedMLP(nn.Module):
    """Independent MLPs of equal size, arranged along ``stack``, e.g. ``[tasks, members]`` or ``[members]``.

    Args:
        stack (sequence of int): number of networks along each leading dimension.
        in_features, out_features (int): sizes.
        hidden (sequence of int): widths.

    Keyword Args:
        activation (callable class): Defaults to ``nn.SiLU`` (Swish).
        generator (torch.Generator, optional): samples the weights as in PETS; biases are 0.

    Attributes:
        weights, biases (nn.ParameterList): one ``[*stack, in, out]`` and one ``[*stack, 1, out]`` per layer.

    Examples:
        >>> network = StackedMLP([3, 7], 4, 2, [8])  # 3 tasks, 7 members each
        >>> network(torch.zeros(5, 4)).shape  # the same input for all
        torch.Size([3, 7, 5, 2])
        >>> network(torch.zeros(3, 1, 5, 4)).shape  # one input per task
        torch.Size([3, 7, 5, 2])
    """

    def __init__(
        self,
        stack: Sequence[int],
        in_features: int,
        out_features: int,
        hidden: Sequence[int],
        *,
        activation: type[nn.Module] = nn.SiLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden, out_features]
        self.stack = tuple(stack)
        self.activation = activation()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, following in zip(sizes[:-1], sizes[1:], strict=True):
            weight = truncated_normal_(torch.empty(*self.stack, size, following), size, generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(*self.stack, 1, following)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[*stack, B, out]`` of inputs ``[*, B, in]``, whose ``*`` broadcasts to the stack.

        Raises:
            ValueError: if the input size differs from that of the networks.
        """
        if inputs.shape[-1] != self.weights[0].shape[-2]:
            raise ValueError(
                f"StackedMLP: the inputs have {inputs.shape[-1]} features, the networks expect "
                f"{self.weights[0].shape[-2]}."
            )
        # One batch of products; baddbmm also adds the bias.
        values = inputs.expand(*self.stack, *inputs.shape[-2:]).flatten(0, -3)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias.flatten(0, -3), values, weight.flatten(0, -3))
            if number < len(self.weights) - 1:
                values = self.activation(values)
        return values.unflatten(0, self.stack)

    def decay(self, rates: Sequence[float]) -> Tensor:
        """``sum_l rate_l * 0.5 * |W_l|^2`` of each network, ``[*stack]``; further layers use the last rate."""
        total = self.weights[0].new_zeros(self.stack)
        for number, weight in enumerate(self.weights):
            rate = rates[min(number, len(rates) - 1)]
            total = total + 0.5 * rate * weight.square().sum((-2, -1))
        return total
