"""ER-TRL: a conditional GAN imitates the behavior, and contexts maximize the entropy of its actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ctmrl_torchrl.modules.draws import normal_like
from ctmrl_torchrl.modules.keys import read


def discriminator_error(real: Tensor, fake: Tensor) -> Tensor:
    """ER-TRL's L_D: cross-entropy of classifying real actions as real and generated ones as generated.

    Args:
        real, fake (Tensor): logits ``[T, B, 1]`` of the behavior's and the generator's actions.

    Returns:
        ``[T]``.

    Source: ER-TRL (AAAI 2025), as released.

    Examples:
        >>> discriminator_error(torch.zeros(1, 5, 1), torch.zeros(1, 5, 1)).exp()
        tensor([4.])
    """
    return functional.softplus(-real).mean((-2, -1)) + functional.softplus(fake).mean((-2, -1))


def generator_error(fake: Tensor) -> Tensor:
    """ER-TRL's L_G: the non-saturating generator loss, cross-entropy of generated actions as real.

    Args:
        fake (Tensor): logits ``[T, B, 1]`` of the generator's actions, with gradient to it.

    Returns:
        ``[T]``.

    Source: ER-TRL (AAAI 2025), as released.

    Examples:
        >>> generator_error(torch.zeros(1, 5, 1)).exp()
        tensor([2.])
    """
    return functional.softplus(-fake).mean((-2, -1))


def gaussian_entropy(actions: Tensor, jitter: float = 1e-5) -> Tensor:
    """ER-TRL's H_t: entropy of a Gaussian fitted to a task's actions over states and noise.

    This is the entropy of the action given the context, not given state and context. If all actions are equal,
    it reaches its minimum of about -4.3 nats per dimension. The generator has then collapsed, and the gradient
    carries no information.

    Args:
        actions (Tensor): ``[T, B, a]``; receive gradient.
        jitter (float): added to the variances.

    Returns:
        ``[T]``: ``0.5 * logdet(Sigma) + 0.5 * a * (1 + log(2 pi))``.

    Raises:
        ValueError: for a single action, which has no covariance.

    Source: ER-TRL (AAAI 2025), the entropy term, as released.

    Examples:
        >>> round(gaussian_entropy(torch.tensor([[[-1.0], [1.0]]]), jitter=0.0).item(), 4)  # variance 2
        1.7655
    """
    count, size = actions.shape[-2:]
    if count < 2:
        raise ValueError(
            "gaussian_entropy: a task needs at least two actions; sample more transitions per task."
        )
    if torch.finfo(actions.dtype).bits < 32:  # factorizations need single precision
        return gaussian_entropy(actions.float(), jitter=jitter).to(actions.dtype)
    centred = actions - actions.mean(-2, keepdim=True)
    covariance = centred.mT @ centred / (count - 1)
    covariance = covariance + jitter * torch.eye(size, dtype=actions.dtype, device=actions.device)
    # cholesky_ex does not synchronize with the device to report errors; the jitter ensures success.
    factor = torch.linalg.cholesky_ex(covariance).L
    logdet = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * logdet + 0.5 * size * (1.0 + math.log(2.0 * math.pi))


class BehaviourGAN(nn.Module):
    """Generator and discriminator of behavior with their optimizers: ER-TRL's inner loop.

    Args:
        generator, discriminator (TensorDictModule): as
            :func:`~ctmrl_torchrl.modules.generative.make_behaviour_generator` and
            :func:`~ctmrl_torchrl.modules.generative.make_behaviour_discriminator` make them.

    Keyword Args:
        noise_dim (int): size of the generator's last input.
        rate (float): learning rate of both Adam optimizers; released 2e-4.
        rounds (int): steps of both networks in one :meth:`inner_steps`; released 5.
        action (NestedKey): key of the behavior's actions in the batch, which the discriminator reads.

    ``state_dict`` holds the parameters and :meth:`optimizer_state` the rest, so that an inner loop can be
    resumed.

    Source: ER-TRL (AAAI 2025), as released.

    Examples:
        >>> from ctmrl_torchrl.modules.generative import (
        ...     make_behaviour_discriminator, make_behaviour_generator
        ... )
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> gan = BehaviourGAN(make_behaviour_generator(**sizes), make_behaviour_discriminator(**sizes))
        >>> tensors = {"observation": torch.randn(2, 8, 3), "action": torch.rand(2, 8, 2)}
        >>> batch = TensorDict(tensors | {"task_context": torch.randn(2, 8, 4)}, [2, 8])
        >>> sorted(gan.inner_steps(batch).keys())
        ['gan_accuracy', 'loss_discriminator', 'loss_generator']
        >>> gan.entropy(batch).shape
        torch.Size([2])
    """

    def __init__(
        self,
        generator: TensorDictModuleBase,
        discriminator: TensorDictModuleBase,
        *,
        noise_dim: int = 20,
        rate: float = 2e-4,
        rounds: int = 5,
        action: NestedKey = "action",
    ) -> None:
        super().__init__()
        if action not in discriminator.in_keys:
            raise ValueError(
                f"BehaviourGAN: the discriminator reads {list(discriminator.in_keys)}, not the action "
                f"{action!r}; set action= to the key that it reads."
            )
        self.generator, self.discriminator = generator, discriminator
        self.noise_dim, self.rounds, self.action = noise_dim, rounds, action
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), rate)
            for name in ("generator", "discriminator")
        }

    def _generate(
        self,
        batch: TensorDictBase,
        generator: torch.Generator | None,
        parameters: dict[str, Tensor] | None = None,
    ) -> Tensor:
        *given, noise_key = self.generator.in_keys
        inputs = {key: read(batch, key, type(self).__name__) for key in given}
        like = next(iter(inputs.values()))
        noise = normal_like(like, (*like.shape[:-1], self.noise_dim), generator)
        inputs = TensorDict(inputs | {noise_key: noise}, like.shape[:-1])
        made = functional_call(self.generator, parameters or {}, (inputs,))
        return made.get(self.generator.out_keys[-1])

    def _judge(self, batch: TensorDictBase, action: Tensor) -> Tensor:
        inputs = {
            key: action if key == self.action else read(batch, key, type(self).__name__)
            for key in self.discriminator.in_keys
        }
        judged = self.discriminator(TensorDict(inputs, action.shape[:-1]))
        return judged.get(self.discriminator.out_keys[-1])

    def _step(self, name: str, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, grad in zip(parameters, gradients, strict=True):
            parameter.grad = grad
        self.optimizers[name].step()
        self.optimizers[name].zero_grad(set_to_none=True)

    def inner_steps(
        self, batch: TensorDictBase, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Make ``rounds`` steps of discriminator and generator on one batch ``[T, B]``, each with new noise.

        The batch is treated as constant, so no gradient reaches a context.

        Args:
            batch (TensorDictBase): states, actions and repeated contexts.
            generator (torch.Generator, optional): samples the noise.

        Returns:
            both losses of the last round and the discriminator's accuracy, detached.
        """
        batch = batch.detach()
        action = read(batch, self.action, type(self).__name__)
        made_by, judged_by = list(self.generator.parameters()), list(self.discriminator.parameters())
        for _ in range(self.rounds):
            fake = self._generate(batch, generator)
            real_logit, fake_logit = self._judge(batch, action), self._judge(batch, fake.detach())
            loss_discriminator = discriminator_error(real_logit, fake_logit).mean()
            self._step("discriminator", loss_discriminator, judged_by)
            loss_generator = generator_error(self._judge(batch, fake)).mean()
            self._step("generator", loss_generator, made_by)
        right = 0.5 * (real_logit.gt(0).float().mean() + fake_logit.lt(0).float().mean())
        return {
            "loss_discriminator": loss_discriminator.detach(),
            "loss_generator": loss_generator.detach(),
            "gan_accuracy": right,
        }

    def entropy(self, batch: TensorDictBase, generator: torch.Generator | None = None) -> Tensor:
        """:func:`gaussian_entropy` ``[T]`` of generated actions; its gradient only reaches the batch."""
        constant = {name: value.detach() for name, value in self.generator.named_parameters()}
        return gaussian_entropy(self._generate(batch, generator, constant))

    def optimizer_state(self) -> dict[str, Any]:
        """State of both optimizers."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`optimizer_state`."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
