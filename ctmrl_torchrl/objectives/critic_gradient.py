"""The critic's gradient with respect to the context, the only policy-loss gradient that can reach an encoder.

A policy loss without critics, such as imitation, has a single term, which takes the critic's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import LossModule

CRITIC_LOSS = "loss_qvalue"
#: which part of an encoder the critic's gradient reaches
CRITIC_GRADIENTS = ("none", "pooling", "all")


def critic_term(policy_loss: LossModule) -> str | None:
    """The term whose gradient can reach the context: ``loss_qvalue``, or the only term of a loss without critics.

    None if there are several terms and none of them is ``loss_qvalue``.

    Examples:
        >>> from types import SimpleNamespace
        >>> critic_term(SimpleNamespace(out_keys=["loss_actor", "loss_qvalue", "entropy"]))
        'loss_qvalue'
        >>> critic_term(SimpleNamespace(out_keys=["loss_bc"]))
        'loss_bc'
    """
    terms = [str(key) for key in policy_loss.out_keys if str(key).startswith("loss_")]
    if CRITIC_LOSS in terms:
        return CRITIC_LOSS
    return terms[0] if len(terms) == 1 else None


@contextmanager
def deferred_side_effects(policy_loss: Any) -> Iterator[Callable[[TensorDictBase], None]]:
    """Defer what a policy loss changes besides its gradients, for code that transforms its ``forward``.

    A loss that changes buffers within ``forward``, such as the weight of a penalty, cannot do so within a
    transform of torch. It has an attribute ``side_effects_deferred``, which is True within this context, and a
    method ``side_effects(losses)``, to be called after it. Other losses are left alone.

    Yields:
        a function of the losses that applies the side effects.

    Examples:
        >>> class Counting:
        ...     calls, side_effects_deferred = 0, False
        ...
        ...     def side_effects(self, losses):
        ...         self.calls += 1
        >>> loss = Counting()
        >>> with deferred_side_effects(loss) as apply:
        ...     deferred = loss.side_effects_deferred
        >>> apply(TensorDict({}, []))
        >>> deferred, loss.side_effects_deferred, loss.calls
        (True, False, 1)
    """
    if not hasattr(policy_loss, "side_effects_deferred"):
        yield lambda losses: None
        return
    policy_loss.side_effects_deferred = True
    try:
        yield policy_loss.side_effects
    finally:
        policy_loss.side_effects_deferred = False


def with_critic_gradient(
    policy_losses: Callable[[Tensor], TensorDictBase], task_context: Tensor, term: str = CRITIC_LOSS
) -> TensorDictBase:
    """Evaluate policy losses on detached contexts and add the critic's gradient with respect to the contexts.

    Loss values do not change. ``term`` gets an additional term of value zero whose gradient equals the
    gradient of ``term`` with respect to the context. No other term reaches the encoder.

    Args:
        policy_losses: ``[T, d] -> losses``.
        task_context (Tensor): ``[T, d]``; receives the gradient.
        term (str): the loss whose gradient reaches the context; see :func:`critic_term`.

    Examples:
        >>> context = torch.tensor([[3.0]], requires_grad=True)
        >>> losses = with_critic_gradient(
        ...     lambda c: TensorDict({"loss_qvalue": c.square().sum(), "loss_actor": c.sum()}, []), context
        ... )
        >>> sum(losses.values()).backward()
        >>> losses["loss_qvalue"].item(), context.grad.item()
        (9.0, 6.0)
    """

    def critic_of(context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses = policy_losses(context)
        return losses.get(term), dict(losses.items())

    # Unlike autograd, this transform also works inside vmap, which stacked agents require.
    slope, losses = torch.func.grad(critic_of, has_aux=True)(task_context.detach())
    pull = (slope.detach() * (task_context - task_context.detach())).sum()
    return TensorDict(losses, []).set(term, losses[term] + pull)


def checked_critic_gradient(
    choice: str, encoder: TensorDictModuleBase, policy_loss: LossModule, reader: str
) -> str:
    """Validate the choice of the critic's gradient against encoder and policy loss, and return it.

    Raises:
        ValueError: if it is unknown, or not supported by the encoder or the policy loss.
    """
    if choice not in CRITIC_GRADIENTS:
        known = ", ".join(map(repr, CRITIC_GRADIENTS))
        raise ValueError(f"{reader}: critic_gradient={choice!r} is unknown; choose {known}.")
    if choice == "none":
        return choice
    if critic_term(policy_loss) is None:
        raise ValueError(
            f"{reader}: critic_gradient={choice!r} needs a policy loss with the output {CRITIC_LOSS!r} or with a "
            f"single loss; {type(policy_loss).__name__} returns {', '.join(map(str, policy_loss.out_keys))}."
        )
    if getattr(policy_loss, "reduction", "mean") == "none":
        raise ValueError(
            f"{reader}: critic_gradient={choice!r} needs a reduced policy loss; build it with "
            "reduction='mean' or 'sum'."
        )
    if choice == "pooling" and not hasattr(encoder, "pooled"):
        raise ValueError(
            f"{reader}: critic_gradient='pooling' needs an encoder with a method pooled(transition "
            f"contexts, mask), which {type(encoder).__name__} lacks; choose 'all'."
        )
    return choice


def context_for_critic(choice: str, encoder: Any, contexts: Mapping[str, Tensor]) -> Tensor:
    """The task contexts ``[T, d]`` through which the critic's gradient flows.

    Raises:
        ValueError: for ``"pooling"`` if there are no per-transition contexts.
    """
    if choice == "all":
        return contexts["task_context"]
    if "transition_contexts" not in contexts:
        raise ValueError(
            "critic_gradient='pooling' pools per-transition contexts, which this encoder does not write; build "
            "it with transition_key='transition_contexts'."
        )
    return encoder.pooled(contexts["transition_contexts"].detach(), contexts.get("context_mask"))
