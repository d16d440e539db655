"""Generative networks: a conditional VAE of outcomes and a conditional GAN of actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP

from ctmrl_torchrl.modules.initialization import lineage_init_


class SplitMLP(nn.Module):
    """A ReLU network on several inputs whose output is split.

    Args:
        in_features (int): total size of the inputs. sizes (sequence of int): sizes of the outputs.
        hidden (sequence of int): widths.

    Examples:
        >>> first, second = SplitMLP(3, [2, 1], [8])(torch.zeros(5, 2), torch.zeros(5, 1))
        >>> first.shape, second.shape
        (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    def __init__(self, in_features: int, sizes: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.network = MLP(
            in_features=in_features,
            out_features=sum(sizes),
            num_cells=list(hidden),
            activation_class=nn.ReLU,
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        """The outputs ``[*, size]``; a single tensor if there is only one."""
        pieces = self.network(torch.cat(inputs, -1)).split(self.sizes, -1)
        return pieces if len(pieces) > 1 else pieces[0]


def make_outcome_vae(
    *,
    observation_dim: int,
    action_dim: int,
    latent_dim: int = 5,
    hidden: Sequence[int] = (64,),
    in_keys: Sequence[NestedKey] = ("observation", "action", ("next", "reward"), ("next", "observation")),
    latent_key: NestedKey = "latent",
    statistic_keys: Sequence[NestedKey] = ("latent_mean", "latent_log_variance"),
    out_keys: Sequence[NestedKey] = ("next_observation_prediction", "reward_prediction"),
) -> tuple[TensorDictModule, TensorDictModule]:
    """CORRO's conditional VAE of outcomes (r, s') given (s, a): encoder and decoder.

    Args:
        observation_dim, action_dim, latent_dim (int): sizes. Released: latent 5, width 64 (Point-Robot,
            Half-Cheetah-Vel); 64 and 128 (Ant, Hopper, Walker).
        hidden (sequence of int): widths.

    Keyword Args:
        in_keys: observation, action, reward and next observation, each ``[*, features]``.
        latent_key: the decoder's third input, after observation and action, ``[*, latent_dim]``.
        statistic_keys: mean and log-variance that the encoder writes, ``[*, latent_dim]``.
        out_keys: next observation and reward that the decoder writes.

    Source: CORRO (ICML 2022), as released.

    Examples:
        >>> encoder, decoder = make_outcome_vae(observation_dim=3, action_dim=2)
        >>> decoder(*(torch.zeros(4, size) for size in (3, 2, 5)))[1].shape
        torch.Size([4, 1])
    """
    given = observation_dim + action_dim
    encoder = SplitMLP(given + 1 + observation_dim, [latent_dim, latent_dim], hidden)
    decoder = SplitMLP(given + latent_dim, [observation_dim, 1], hidden)
    return (
        TensorDictModule(encoder, list(in_keys), list(statistic_keys)),
        TensorDictModule(decoder, [*in_keys[:2], latent_key], list(out_keys)),
    )


def make_behaviour_generator(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    noise_dim: int = 20,
    hidden: Sequence[int] = (200, 200, 200),
    lineage_init: bool = False,
    in_keys: Sequence[NestedKey] = ("observation", "task_context", "noise"),
    out_key: NestedKey = "generated_action",
) -> TensorDictModule:
    """G(s, c, noise): generates actions in (-1, 1) that imitate the behavior (ER-TRL).

    Args:
        observation_dim, context_dim, action_dim, noise_dim (int): sizes.
        hidden (sequence of int): widths.
        lineage_init (bool): whether to use FOCAL's weight initialization; see :func:`lineage_init_`.
        in_keys: three keys, each ``[*, features]``. out_key: ``[*, action_dim]``.

    Source: ER-TRL (AAAI 2025), as released.

    Examples:
        >>> generator = make_behaviour_generator(observation_dim=3, context_dim=4, action_dim=2)
        >>> inputs = dict(zip(generator.in_keys, (torch.zeros(5, size) for size in (3, 4, 20))))
        >>> generator(**inputs).shape
        torch.Size([5, 2])
    """
    network = SplitMLP(observation_dim + context_dim + noise_dim, [action_dim], hidden)
    network.network.append(nn.Tanh())
    if lineage_init:
        lineage_init_(network)
    return TensorDictModule(network, list(in_keys), [out_key])


def make_behaviour_discriminator(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    hidden: Sequence[int] = (256, 256),
    lineage_init: bool = False,
    in_keys: Sequence[NestedKey] = ("action", "observation", "task_context"),
    out_key: NestedKey = "realness",
) -> TensorDictModule:
    """D(a, s, c): the logit that an action comes from the behavior rather than the generator (ER-TRL).

    Args:
        observation_dim, context_dim, action_dim (int), hidden, lineage_init: as for
            :func:`make_behaviour_generator`.
        in_keys: three keys, each ``[*, features]``. out_key: ``[*, 1]``.

    Source: ER-TRL (AAAI 2025), as released; the sigmoid is part of the loss.

    Examples:
        >>> discriminator = make_behaviour_discriminator(observation_dim=3, context_dim=4, action_dim=2)
        >>> inputs = dict(zip(discriminator.in_keys, (torch.zeros(5, size) for size in (2, 3, 4))))
        >>> discriminator(**inputs).shape
        torch.Size([5, 1])
    """
    network = SplitMLP(observation_dim + context_dim + action_dim, [1], hidden)
    if lineage_init:
        lineage_init_(network)
    return TensorDictModule(network, list(in_keys), [out_key])
