"""CORRO: contrasts transitions with negatives that share state and action, and generates these negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from ctmrl_torchrl.modules.draws import normal_like, uniform
from ctmrl_torchrl.modules.keys import read

#: sources of negatives, as in ``negatives=NAME``
NEGATIVES = ("generative", "reward_noise", "other_tasks")


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


def draw_latent(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A reparameterized sample from the latent's Gaussian, ``[*, d]``.

    Examples:
        >>> draw_latent(torch.ones(2, 3), torch.full((2, 3), -80.0))
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    return mean + (0.5 * log_variance).exp() * normal_like(mean, generator=generator)


@torch.no_grad()
def noisy_rewards(
    transitions: TensorDictBase,
    count: int,
    *,
    deviation: float = 0.5,
    reward: NestedKey = ("next", "reward"),
    generator: torch.Generator | None = None,
) -> TensorDictBase:
    """Negatives for tasks with different rewards: the same transitions with noise on their rewards.

    Args:
        transitions (TensorDictBase): ``[*]``; not modified.
        count (int): M, per transition.
        deviation (float): standard deviation of the noise.
        reward (NestedKey): ``[*, 1]``.
        generator (torch.Generator, optional): samples the noise.

    Returns:
        ``[*, M]``.

    Source: CORRO (ICML 2022), reward randomization, as released.

    Examples:
        >>> one = TensorDict({"next": TensorDict({"reward": torch.zeros(4, 1)}, [4])}, [4])
        >>> noisy_rewards(one, 16).batch_size
        torch.Size([4, 16])
    """
    shape = (*transitions.batch_size, count)
    repeated = transitions.unsqueeze(-1).expand(*shape).clone(False)
    value = read(repeated, reward, "noisy_rewards")
    return repeated.set(reward, value + deviation * normal_like(value, generator=generator))


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
    """Negatives for arbitrary tasks: the same states and actions with outcomes decoded from the VAE's prior.

    Args:
        transitions (TensorDictBase): ``[*]``; not modified.
        count (int): M, per transition, each with a separate latent.
        decoder (TensorDictModule): created by :func:`~ctmrl_torchrl.modules.generative.make_outcome_vae`; its
            last input is the latent, its outputs are next observation and reward.
        latent_dim (int): size of the latent.
        reward, next_observation (NestedKey): keys to replace.
        generator (torch.Generator, optional): samples the latents.

    Returns:
        ``[*, M]``.

    Source: CORRO (ICML 2022), generative relabeling, as released.

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
    repeated = transitions.unsqueeze(-1).expand(*shape).clone(False)
    *given, latent_key = decoder.in_keys
    inputs = {key: read(repeated, key, "generated_outcomes") for key in given}
    like = next(iter(inputs.values()))
    latent = normal_like(like, (*shape, latent_dim), generator)
    decoded = decoder(TensorDict(inputs | {latent_key: latent}, shape))
    following_key, reward_key = decoder.out_keys
    repeated.set(next_observation, decoded.get(following_key))
    return repeated.set(reward, decoded.get(reward_key))


def draw_queries_and_keys(
    transitions: TensorDictBase, count: int, generator: torch.Generator | None = None
) -> tuple[TensorDictBase, TensorDictBase]:
    """Sample pairs of transitions, each from one random task with any of its trajectories and time steps.

    Args:
        transitions (TensorDictBase): ``[N, M]``, of every training task.
        count (int): B; released 64.
        generator (torch.Generator, optional): samples them.

    Returns:
        queries and keys, ``[B]`` each.

    Source: CORRO (ICML 2022), as released.

    Examples:
        >>> tasks = TensorDict({"number": torch.arange(4).unsqueeze(-1).expand(4, 9)}, [4, 9])
        >>> query, key = draw_queries_and_keys(tasks, 64)
        >>> torch.equal(query["number"], key["number"])
        True
    """
    tasks, rows = transitions.batch_size[:2]
    share = uniform((3, count), generator, transitions.device)
    task, first, second = (share * torch.tensor([[tasks], [rows], [rows]]).to(share)).long()
    return transitions[task, first], transitions[task, second]


def draw_other_transitions(
    transitions: TensorDictBase, count: int, negatives: int, generator: torch.Generator | None = None
) -> TensorDictBase:
    """Unrelated negatives: real transitions of random tasks, ``[count, negatives]``.

    Args:
        transitions (TensorDictBase): ``[N, M]``, of every training task.
        count, negatives (int): B and M of the contrast.
        generator (torch.Generator, optional): samples them.

    Source: CORRO (ICML 2022), ``none``, the release's choice on Hopper.

    Examples:
        >>> tasks = TensorDict({"number": torch.arange(4).unsqueeze(-1).expand(4, 9)}, [4, 9])
        >>> draw_other_transitions(tasks, 64, 16)["number"].unique().tolist()
        [0, 1, 2, 3]
    """
    tasks, rows = transitions.batch_size[:2]
    share = uniform((2, count, negatives), generator, transitions.device)
    return transitions[(share[0] * tasks).long(), (share[1] * rows).long()]


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
