"""The codebook: N codes that summarize similar tasks, matched by cosine similarity (CTMRL, Eq. 1 and 2)."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.nn import functional

from ctmrl_torchrl.modules.keys import read


def match_codes(task_context: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (1): cosine similarity of every context to every code, and the closest code.

    Args:
        task_context (Tensor): ``[*, d]``.
        codes (Tensor): ``[N, d]``.

    Returns:
        the similarities ``[*, N]`` and the index of the largest, ``[*]`` int64.

    Examples:
        >>> match_codes(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        (tensor([[0., 1.]]), tensor([1]))
    """
    similarity = functional.normalize(task_context, dim=-1) @ functional.normalize(codes, dim=-1).mT
    return similarity, similarity.argmax(-1)


def code_distances(codes: Tensor) -> Tensor:
    """The Euclidean distance between every two codes.

    Args:
        codes (Tensor): ``[N, d]``.

    Returns:
        the distances ``[N, N]``, symmetric with zeros on the diagonal.

    Examples:
        >>> code_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    return torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")


def _matches(code_index: Tensor, codes: Tensor) -> Tensor:
    """The one-hot matrix ``[T, N]`` of the code matched with each context.

    ``one_hot`` gives the same result but first reads the largest index, which synchronizes some devices.
    """
    numbers = torch.arange(codes.shape[0], device=codes.device)
    return (code_index.unsqueeze(-1) == numbers).to(codes.dtype)


def moving_update(codes: Tensor, task_context: Tensor, code_index: Tensor, rate: float) -> Tensor:
    """Eq. (2): move every matched code towards the mean of the contexts matched to it.

    Several contexts of a batch may match one code. Using their mean makes the result independent of their
    order. Codes without a match do not change.

    Args:
        codes (Tensor): ``[N, d]``.
        task_context (Tensor): ``[T, d]``.
        code_index (Tensor): ``[T]`` int64.
        rate (float): the learning rate eta, in [0, 1].

    Returns:
        the updated codes, ``[N, d]``.

    Examples:
        >>> moving_update(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]), rate=0.5)
        tensor([[1.],
                [0.]])
    """
    assignment = _matches(code_index, codes)
    counts = assignment.sum(0).unsqueeze(-1)
    means = assignment.mT @ task_context / counts.clamp_min(1.0)
    return torch.where(counts > 0, torch.lerp(codes, means, rate), codes)


class Codebook(TensorDictModuleBase):
    """N learnable codes. Each context is matched with its closest code (CTMRL, Eq. 1), which follows it (Eq. 2).

    The codes are parameters that receive gradients of L_C and L_pre_cro. In training mode, every forward pass
    also updates them in place, without gradients. A running match frequency measures code usage.

    Args:
        num_codes (int): N.
        context_dim (int): d, the latent size of the contexts.

    Keyword Args:
        update_rate (float): eta of Eq. (2). Defaults to 0.1.
        usage_rate (float): rate of the running match frequency. Defaults to 0.02.
        follows (bool): whether :meth:`forward` applies Eq. (2) in training mode; otherwise call
            :meth:`update_`. Defaults to True.
        in_key, index_key, out_key (NestedKey): default ``"task_context"``, ``"code_index"``,
            ``"cross_task_context"``.
        generator (torch.Generator, optional): for the random initial codes.

    Keys:
        - reads ``in_key`` ``[T, d]``
        - writes ``index_key`` ``[T]`` int64 and ``out_key`` ``[T, d]`` (the code itself, with its gradient)

    Raises:
        ValueError: if the sizes are not positive, a rate is outside [0, 1], or the latent size of the input
            differs from that of the codes.
        KeyError: if the input lacks ``in_key``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> codebook = Codebook(4, 3)
        >>> td = codebook(TensorDict({"task_context": torch.randn(5, 3)}, [5]))
        >>> td["cross_task_context"].shape, td["code_index"].shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]
    usage: Tensor

    def __init__(
        self,
        num_codes: int,
        context_dim: int,
        *,
        update_rate: float = 0.1,
        usage_rate: float = 0.02,
        follows: bool = True,
        in_key: NestedKey = "task_context",
        index_key: NestedKey = "code_index",
        out_key: NestedKey = "cross_task_context",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_codes < 1 or context_dim < 1:
            raise ValueError(
                f"Codebook: num_codes={num_codes} and context_dim={context_dim} must both be at least 1."
            )
        for name, rate in (("update_rate", update_rate), ("usage_rate", usage_rate)):
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"Codebook: {name}={rate} must lie between 0 and 1.")
        self.in_keys, self.out_keys = [in_key], [index_key, out_key]
        self.update_rate, self.usage_rate, self.follows = update_rate, usage_rate, follows
        codes = torch.empty(num_codes, context_dim).uniform_(-1.0, 1.0, generator=generator)
        self.codes = nn.Parameter(codes)
        self.register_buffer("usage", torch.full((num_codes,), 1.0 / num_codes))

    @property
    def num_codes(self) -> int:
        """N, the number of codes."""
        return self.codes.shape[0]

    @torch.no_grad()
    def update_(self, task_context: Tensor, code_index: Tensor) -> None:
        """Apply Eq. (2) in place and refresh the running match frequencies."""
        task_context = task_context.detach().reshape(-1, self.codes.shape[-1]).to(self.codes.dtype)
        code_index = code_index.reshape(-1)
        self.codes.copy_(moving_update(self.codes, task_context, code_index, self.update_rate))
        frequency = _matches(code_index, self.usage).mean(0)
        self.usage.add_(frequency - self.usage, alpha=self.usage_rate)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reinitialize the codes and reset the usage statistics."""
        self.initialise_(torch.empty_like(self.codes).uniform_(-1.0, 1.0))

    @torch.no_grad()
    def initialise_(self, centres: Tensor) -> None:
        """Replace every code with a cluster center ``[N, d]`` and reset the usage statistics."""
        if centres.shape != self.codes.shape:
            raise ValueError(
                f"Codebook: centers of shape {tuple(centres.shape)} cannot initialize codes of "
                f"shape {tuple(self.codes.shape)}; run K-means with num_codes={self.num_codes} clusters."
            )
        self.codes.copy_(centres)
        self.usage.fill_(1.0 / self.num_codes)

    @torch.no_grad()
    def merge_(self, centres: Tensor) -> None:
        """Move the codes towards new cluster centers with Eq. (1) and (2)."""
        self.codes.copy_(
            moving_update(self.codes, centres, match_codes(centres, self.codes)[1], self.update_rate)
        )

    def perplexity(self) -> Tensor:
        """exp(entropy) of the running match frequencies: N if codes are used uniformly, 1 if only one is used."""
        return torch.exp(torch.special.entr(self.usage).sum())

    def dead_codes(self) -> Tensor:
        """Number of codes matched less than a tenth as often as under uniform use."""
        return (self.usage < 0.1 / self.num_codes).sum()

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Match contexts, update the codes (in training mode only) and write the matched codes."""
        task_context = read(tensordict, self.in_keys[0], "Codebook")
        if task_context.shape[-1] != self.codes.shape[-1]:
            raise ValueError(
                f"Codebook: {self.in_keys[0]!r} has latent size {task_context.shape[-1]} but the codes have "
                f"{self.codes.shape[-1]}; build the codebook with context_dim={task_context.shape[-1]}."
            )
        with torch.no_grad():
            index = match_codes(task_context, self.codes)[1]
        if self.training and self.follows:
            self.update_(task_context, index)
        tensordict.set(self.out_keys[0], index)
        return tensordict.set(self.out_keys[1], self.codes[index])
