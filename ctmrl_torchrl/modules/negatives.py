"""CORRO's negatives, which share state and action with a transition, and the latent that generates them."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.draws import normal_like
from ctmrl_torchrl.modules.keys import read

#: sources of negatives, as in ``negatives=NAME``
NEGATIVES = ("generative", "reward_noise", "other_tasks")


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
