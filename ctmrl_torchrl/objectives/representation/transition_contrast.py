"""CORRO: transitions contrasted with others that share state and action, and what makes those others."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read

#: where negatives come from, as ``negatives=NAME`` chooses
NEGATIVES = ("generative", "reward_noise", "other_tasks")


def transition_contrastive(query: Tensor, key: Tensor, negatives: Tensor, temperature: float = 0.1) -> Tensor:
    """CORRO's InfoNCE: the query's code is closer to another transition's of its task than to the negatives'.

    Args:
        query, key (Tensor): ``[*, d]``, codes of unit length; both receive gradient.
        negatives (Tensor): ``[*, M, d]``, codes of unit length; they receive gradient too.
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
        mean, log_variance (Tensor): of the latent, ``[*, d]``.
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


def draw_latent(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A reparameterised draw from the latent's Gaussian, ``[*, d]``.

    Examples:
        >>> draw_latent(torch.ones(2, 3), torch.full((2, 3), -80.0))
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    noise = torch.empty_like(mean).normal_(generator=generator)
    return mean + (0.5 * log_variance).exp() * noise


@torch.no_grad()
def noisy_rewards(
    transitions: TensorDictBase,
    count: int,
    *,
    deviation: float = 0.5,
    reward: NestedKey = ("next", "reward"),
    generator: torch.Generator | None = None,
) -> TensorDictBase:
    """Negatives for tasks that differ in reward: the same transitions with noise on their rewards.

    Args:
        transitions (TensorDictBase): ``[*]``; left as they are.
        count (int): M, per transition.
        deviation (float): of the noise.
        reward (NestedKey): ``[*, 1]``.
        generator (torch.Generator, optional): draws the noise.

    Returns:
        ``[*, M]``.

    Source: CORRO (ICML 2022), reward randomization, as released.

    Examples:
        >>> one = TensorDict({"next": TensorDict({"reward": torch.zeros(4, 1)}, [4])}, [4])
        >>> noisy_rewards(one, 16).batch_size
        torch.Size([4, 16])
    """
    shape = (*transitions.batch_size, count)
    repeated = transitions.unsqueeze(-1).expand(shape).clone(False)
    value = read(repeated, reward, "noisy_rewards")
    noise = torch.empty_like(value).normal_(generator=generator)
    return repeated.set(reward, value + deviation * noise)


@torch.no_grad()
def generated_outcomes(
    transitions: TensorDictBase,
    count: int,
    decoder: TensorDictModuleBase,
    latent_dim: int,
    *,
    reward: NestedKey = ("next", "reward"),
    next_observation: NestedKey = ("next", "observation"),
    generator: torch.Generator | None = None,
) -> TensorDictBase:
    """Negatives for any tasks: the same states and actions with outcomes decoded from the VAE's prior.

    Args:
        transitions (TensorDictBase): ``[*]``; left as they are.
        count (int): M, per transition, each with a latent of its own.
        decoder (TensorDictModule): as :func:`~ctmrl_torchrl.modules.generative.make_outcome_vae` makes it;
            its last input is the latent, its outputs are next observation and reward.
        latent_dim (int): of that latent.
        reward, next_observation (NestedKey): what is replaced.
        generator (torch.Generator, optional): draws the latents.

    Returns:
        ``[*, M]``.

    Source: CORRO (ICML 2022), generative relabelling, as released.

    Examples:
        >>> from ctmrl_torchrl.modules.generative import make_outcome_vae
        >>> _, decoder = make_outcome_vae(observation_dim=3, action_dim=2)
        >>> state = {"observation": torch.zeros(4, 3), "action": torch.zeros(4, 2)}
        >>> after = {"observation": torch.zeros(4, 3), "reward": torch.zeros(4, 1)}
        >>> negatives = generated_outcomes(TensorDict(state | {"next": after}, [4]), 16, decoder, 5)
        >>> negatives["next", "observation"].shape
        torch.Size([4, 16, 3])
    """
    shape = (*transitions.batch_size, count)
    repeated = transitions.unsqueeze(-1).expand(shape).clone(False)
    *given, latent_key = decoder.in_keys
    inputs = {key: read(repeated, key, "generated_outcomes") for key in given}
    like = next(iter(inputs.values()))
    latent = like.new_empty(*shape, latent_dim).normal_(generator=generator)
    decoded = decoder(TensorDict(inputs | {latent_key: latent}, shape))
    following_key, reward_key = decoder.out_keys
    repeated.set(next_observation, decoded.get(following_key))
    return repeated.set(reward, decoded.get(reward_key))
