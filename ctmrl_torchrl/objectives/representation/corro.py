"""CORRO's pretraining: a conditional VAE of outcomes and a transition contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn

from ctmrl_torchrl.modules.generative import make_outcome_vae
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.modules.negatives import NEGATIVES, draw_latent, generated_outcomes, noisy_rewards
from ctmrl_torchrl.modules.standardise import Standardise, Statistics, Unstandardise
from ctmrl_torchrl.registry import nearest

#: samples transitions of random training tasks: ``(tasks, rows, generator) -> [tasks, rows]``
DrawRows = Callable[[int, int, torch.Generator], TensorDictBase]
FOLLOWING = ("next", "observation")


def transition_contrastive(query: Tensor, key: Tensor, negatives: Tensor, temperature: float = 0.1) -> Tensor:
    """CORRO's InfoNCE: pulls the query's code towards a transition of its task and away from negatives.

    Args:
        query, key (Tensor): ``[*, d]``, codes of unit length; both receive gradient.
        negatives (Tensor): ``[*, M, d]``, codes of unit length; also receive gradient.
        temperature (float): tau.

    Returns:
        ``[*]``: ``logsumexp([q.k, q.n_1, ..., q.n_M] / tau) - q.k / tau``.

    Source: CORRO (ICML 2022), the contrastive objective, as released.

    Examples:
        >>> query = torch.tensor([[1.0, 0.0]])
        >>> transition_contrastive(query, query, torch.zeros(1, 3, 2)) < 0.001
        tensor([True])
        >>> transition_contrastive(query, query, query.unsqueeze(1).expand(1, 3, 2)).exp()  # M + 1
        tensor([4.])
    """
    right = (query * key).sum(-1, keepdim=True)
    wrong = torch.einsum("...d,...md->...m", query, negatives)
    logits = torch.cat([right, wrong], -1) / temperature
    return logits.logsumexp(-1) - logits[..., 0]


def vae_error(
    outcome: tuple[Tensor, Tensor],
    prediction: tuple[Tensor, Tensor],
    mean: Tensor,
    log_variance: Tensor,
    weight: float = 0.2,
) -> Tensor:
    """CORRO's L_cvae: squared errors of both outcomes plus ``weight`` times the KL to a standard normal.

    Args:
        outcome, prediction (pair of Tensor): next observation ``[*, n_s]`` and reward ``[*, 1]``.
        mean, log_variance (Tensor): parameters of the latent, ``[*, d]``.
        weight (float): beta.

    Returns:
        ``[*]``; errors are means over dimensions, the KL is a sum.

    Source: CORRO (ICML 2022), the conditional VAE, as released.

    Examples:
        >>> outcome, prediction = (torch.zeros(1, 2), torch.zeros(1, 1)), (torch.ones(1, 2), torch.ones(1, 1))
        >>> vae_error(outcome, prediction, torch.ones(1, 2), torch.zeros(1, 2))  # 1 + 1 + 0.2 * 2 * 0.5
        tensor([2.2000])
    """
    errors = sum((guess - truth).square().mean(-1) for guess, truth in zip(prediction, outcome, strict=True))
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1)
    return errors + weight * divergence


def contrast_of_transitions(
    encoder: nn.Module,
    query: TensorDictBase,
    key: TensorDictBase,
    negatives: TensorDictBase,
    *,
    in_keys: Sequence[NestedKey] = ("observation", "action", ("next", "reward"), ("next", "observation")),
    temperature: float = 0.1,
) -> Tensor:
    """:func:`transition_contrastive` of transitions, encoded in one stacked forward pass.

    Args:
        encoder (nn.Module): E1, maps concatenated features ``[*, F]`` to codes of unit length ``[*, d]``.
        query, key (TensorDictBase): ``[B]``. negatives (TensorDictBase): ``[B, M]``.
        in_keys: the features, in order. temperature (float): tau.

    Returns:
        ``[B]``; queries, keys and negatives all have gradients to the encoder.

    Examples:
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules.pooling import UnitSphere
        >>> encoder = nn.Sequential(nn.Linear(3, 4), UnitSphere())
        >>> one = TensorDict({"observation": torch.randn(5, 3)}, [5])
        >>> others = TensorDict({"observation": torch.randn(5, 16, 3)}, [5, 16])
        >>> contrast_of_transitions(encoder, one, one, others, in_keys=["observation"]).shape
        torch.Size([5])
    """
    features = [
        torch.cat([read(part, name, "contrast_of_transitions") for name in in_keys], -1)
        for part in (query.unsqueeze(-1), key.unsqueeze(-1), negatives)
    ]
    codes = encoder(torch.cat(features, 1))
    return transition_contrastive(codes[:, 0], codes[:, 1], codes[:, 2:], temperature)


class OutcomeVAE(nn.Module):
    """CORRO's conditional VAE of reward and next observation, on transitions in raw units.

    Args:
        observation_dim, action_dim, latent_dim (int): sizes.
        hidden (sequence of int): widths of encoder and decoder.

    Keyword Args:
        observation_statistics, change_statistics, reward_statistics (Statistics, optional): standardize
            observation, its change and reward, so that neither outcome dominates. The released code uses
            none, and predicts the next observation instead of its change.
        reward (NestedKey): default ``("next", "reward")``.

    Attributes:
        decoder (TensorDictModule): reads ``observation``, ``action`` and ``latent`` and writes the next
            observation and the reward, in raw units.

    Source: CORRO (ICML 2022), as released except for the units.

    Examples:
        >>> from tensordict import TensorDict
        >>> vae = OutcomeVAE(3, 2, latent_dim=5)
        >>> after = {"observation": torch.randn(4, 3), "reward": torch.randn(4, 1)}
        >>> rows = {"observation": torch.randn(4, 3), "action": torch.randn(4, 2), "next": after}
        >>> vae.error(TensorDict(rows, [4])).shape
        torch.Size([4])
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        latent_dim: int = 5,
        hidden: Sequence[int] = (64,),
        *,
        observation_statistics: Statistics | None = None,
        change_statistics: Statistics | None = None,
        reward_statistics: Statistics | None = None,
        reward: NestedKey = ("next", "reward"),
    ) -> None:
        super().__init__()
        self.reward, self.latent_dim = reward, latent_dim
        self.encoder, inner = make_outcome_vae(
            observation_dim=observation_dim, action_dim=action_dim, latent_dim=latent_dim, hidden=hidden
        )
        self.observation = _affine(Standardise, observation_statistics, observation_dim)
        self.standardise = nn.ModuleList(
            _affine(Standardise, each, size)
            for each, size in ((change_statistics, observation_dim), (reward_statistics, 1))
        )
        back = [
            _affine(Unstandardise, each, size)
            for each, size in ((change_statistics, observation_dim), (reward_statistics, 1))
        ]
        network = _RawDecoder(cast(nn.Module, inner.module), self.observation, *back)
        self.decoder = TensorDictModule(network, ["observation", "action", "latent"], [FOLLOWING, reward])

    def error(self, transitions: TensorDictBase, generator: torch.Generator | None = None) -> Tensor:
        """L_cvae ``[*]`` of transitions ``[*]``, with one sample of the latent."""
        keys = ("observation", "action", self.reward, FOLLOWING)
        raw, action, reward, following = (read(transitions, key, type(self).__name__) for key in keys)
        observation = self.observation(raw)
        outcome = self.standardise[0](following - raw), self.standardise[1](reward)
        mean, log_variance = self.encoder.module(observation, action, outcome[1], outcome[0])
        latent = draw_latent(mean, log_variance, generator)
        prediction = self.decoder.module.network(observation, action, latent)
        return vae_error(outcome, prediction, mean, log_variance)


class _RawDecoder(nn.Module):
    """Maps raw observation and action to raw outcomes."""

    def __init__(self, network: nn.Module, observation: nn.Module, change: nn.Module, reward: nn.Module):
        super().__init__()
        self.network, self.observation = network, observation
        self.change, self.reward = change, reward

    def forward(self, observation: Tensor, action: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        change, reward = self.network(self.observation(observation), action, latent)
        return observation + self.change(change), self.reward(reward)


def _affine(
    kind: type[Standardise] | type[Unstandardise], statistics: Statistics | None, size: int
) -> nn.Module:
    return kind(*(statistics or (torch.zeros(size), torch.ones(size))))


class TransitionContrast:
    """The loss of one step of the transition encoder: samples and contrasts queries, keys and negatives.

    Args:
        encoder (nn.Module): E1, maps concatenated features to codes of unit length.
        draw (callable): ``(tasks, rows, generator) -> [tasks, rows]``, transitions of random training tasks.

    Keyword Args:
        in_keys: the features of E1, in order.
        negatives (str): ``generative`` (outcomes decoded by ``vae`` from its prior), ``reward_noise`` (noise on
            the query's reward) or ``other_tasks`` (real transitions of random tasks).
        vae (OutcomeVAE, optional): required for ``generative``.
        queries, count (int): B and M. temperature (float): tau. noise (float): standard deviation of the noise
            on rewards.
        reward (NestedKey): default ``("next", "reward")``.

    Raises:
        ValueError: for unknown ``negatives``, or ``generative`` ones without ``vae``.

    Source: CORRO (ICML 2022), as released.

    Examples:
        >>> from tensordict import TensorDict
        >>> def draw(tasks, rows, generator):
        ...     return TensorDict({"value": torch.randn(tasks, rows, 3, generator=generator)}, [tasks, rows])
        >>> contrast = TransitionContrast(nn.Linear(3, 4), draw, in_keys=["value"], negatives="other_tasks")
        >>> contrast(torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """

    def __init__(
        self,
        encoder: nn.Module,
        draw: DrawRows,
        *,
        in_keys: Sequence[NestedKey],
        negatives: str = "generative",
        vae: OutcomeVAE | None = None,
        queries: int = 64,
        count: int = 16,
        temperature: float = 0.1,
        noise: float = 0.5,
        reward: NestedKey = ("next", "reward"),
    ) -> None:
        if negatives not in NEGATIVES:
            raise ValueError(
                f"{type(self).__name__}: negatives={negatives!r} is unknown; choose one of "
                f"{', '.join(NEGATIVES)}.{nearest(negatives, NEGATIVES)}"
            )
        if negatives == "generative" and vae is None:
            raise ValueError(f"{type(self).__name__}: negatives='generative' needs vae=.")
        self.encoder, self.draw, self.in_keys = encoder, draw, list(in_keys)
        self.negatives, self.vae = negatives, vae
        self.queries, self.count, self.temperature = queries, count, temperature
        self.noise, self.reward = noise, reward

    def negatives_of(self, query: TensorDictBase, generator: torch.Generator) -> TensorDictBase:
        """Negatives ``[B, M]`` of queries ``[B]``; constants."""
        count, options = self.count, {"reward": self.reward, "generator": generator}
        if self.negatives == "reward_noise":
            return noisy_rewards(query, count, deviation=self.noise, **options)
        if self.vae is not None and self.negatives == "generative":
            return generated_outcomes(query, count, self.vae.decoder, self.vae.latent_dim, **options)
        return self.draw(query.batch_size[0] * count, 1, generator).reshape(*query.batch_size, count)

    def __call__(self, generator: torch.Generator) -> Tensor:
        """InfoNCE of a new batch, a scalar."""
        pairs = self.draw(self.queries, 2, generator)
        query, key = pairs[:, 0], pairs[:, 1]
        negatives = self.negatives_of(query, generator)
        return contrast_of_transitions(
            self.encoder, query, key, negatives, in_keys=self.in_keys, temperature=self.temperature
        ).mean()
