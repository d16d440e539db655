"""The expensive part of CSRO, ER-TRL and GENTLE, ours and as literally written, on the batch of a real update.

Every case is a pair of functions that do the same work and return what it amounts to, so that they can be
compared as well as timed. See ``methods.py``, which measures them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn import functional

from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.objectives.representation import club_bound
from ctmrl_torchrl.objectives.stacked_fit import StackedFit
from ctmrl_torchrl.training.build import Experiment

#: ours and the literal form
Pair = tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]


def all_pairs(loc: Tensor, variance: Tensor, contexts: Tensor) -> Tensor:
    """CSRO's bound with a tensor ``[T, L, L, d]`` of all pairs; ``[T]``.

    Examples:
        >>> contexts = torch.tensor([[[0.0], [2.0]]])
        >>> all_pairs(contexts, torch.ones(1, 2, 1), contexts)
        tensor([2.])
    """
    pairs = (contexts.unsqueeze(1) - loc.unsqueeze(2)).square() / variance.unsqueeze(2)
    own = (contexts - loc).square() / variance
    return (pairs.mean((1, 2)) - own.mean(1)).mean(-1)


def bound(experiment: Experiment, batch: TensorDictBase) -> Pair:
    """CSRO's bound and its gradient: closed form against all pairs of a task's transitions."""
    loss: Any = experiment.loss
    encoding = loss.encoding(batch)
    with torch.no_grad():
        contexts = encoding(encoding.draw("context")).entries()["transition_contexts"]
        loc, variance, _ = loss.representation._guess(batch, contexts)
    contexts = contexts.clone().requires_grad_()

    def differentiated(form: Callable[..., Tensor]) -> list[Tensor]:
        value = form(loc, variance, contexts)
        return [value.detach(), *torch.autograd.grad(value.sum(), contexts)]

    return lambda: differentiated(club_bound), lambda: differentiated(all_pairs)


def rounds(experiment: Experiment, batch: TensorDictBase, through_encoder: bool = True) -> Pair:
    """ER-TRL's rounds: ours, and without detaching anything, so that gradients are computed and thrown away.

    Args:
        experiment, batch: an agent and the meta-batch of an update.
        through_encoder: whether the literal form differentiates the encoder too, as the release does, or the
            contexts alone.
    """
    loss: Any = experiment.loss
    representation, twin = loss.representation, copy.deepcopy(loss)
    made_by, judged_by = (
        twin.representation.gan.generator.module,
        twin.representation.gan.discriminator.module,
    )
    optimizers = twin.representation.gan.optimizers
    bce = functional.binary_cross_entropy_with_logits

    def ours() -> list[Tensor]:
        torch.manual_seed(0)
        with torch.no_grad():
            contexts = loss.encode(batch, loss.tensor_keys.context)
        representation.gan.inner_steps(representation.behaviour(batch, contexts))
        return [*representation.gan.parameters()]

    def literal() -> list[Tensor]:
        torch.manual_seed(0)
        contexts = twin.encode(batch, twin.tensor_keys.context)
        if not through_encoder:
            contexts = contexts.detach().requires_grad_()
        shown = twin.representation.behaviour(batch, contexts).flatten()
        state, action, context = (shown[key] for key in ("observation", "action", "task_context"))
        for _ in range(twin.representation.gan.rounds):
            noise = torch.randn(len(state), twin.representation.gan.noise_dim, dtype=state.dtype)
            fake = made_by(state, context, noise)
            real, judged = judged_by(action, state, context), judged_by(fake, state, context)
            optimizers["discriminator"].zero_grad()
            (bce(real, torch.ones_like(real)) + bce(judged, torch.zeros_like(judged))).backward(
                retain_graph=True
            )
            optimizers["discriminator"].step()
            judged = judged_by(fake, state, context)
            optimizers["generator"].zero_grad()
            bce(judged, torch.ones_like(judged)).backward(retain_graph=True)
            optimizers["generator"].step()
        twin.zero_grad()
        return [*twin.representation.gan.parameters()]

    return ours, literal


def ensembles(network: StackedMLP, inputs: Tensor, targets: Tensor, batch_size: int) -> Pair:
    """A gradient step of GENTLE's task models: as one stack, and in a Python loop over tasks and members.

    Args:
        network: stack ``[tasks, members]``. inputs, targets: ``[tasks, rows, features]``.
        batch_size: rows of every member.
    """
    fit = StackedFit(network, inputs, targets, generator=torch.Generator().manual_seed(0))
    rows = fit.rows[..., :batch_size]
    members = [
        [_alone(network, task, member) for member in range(network.stack[1])] for task in range(len(inputs))
    ]
    optimizers = [[torch.optim.Adam(each.parameters(), 1e-3) for each in some] for some in members]

    def ours() -> list[Tensor]:
        fit.optimizer.zero_grad()
        error = fit.loss(rows)
        error.sum().backward()
        fit.optimizer.step()
        return [error.detach(), *(weight.grad for weight in network.weights)]

    def literal() -> list[Tensor]:
        errors = torch.zeros_like(fit.best_error)
        for task, some in enumerate(members):
            for member, alone in enumerate(some):
                drawn = rows[task, member]
                error = functional.mse_loss(alone(inputs[task, drawn]), targets[task, drawn])
                for number, layer in enumerate(alone[::2]):
                    error = error + 0.5 * fit.decay[min(number, 2)] * layer.weight.square().sum()
                optimizers[task][member].zero_grad()
                error.backward()
                optimizers[task][member].step()
                errors[task, member] = error.detach()
        gradients = (
            torch.stack([torch.stack([alone[2 * layer].weight.grad.T for alone in some]) for some in members])
            for layer in range(len(network.weights))
        )
        return [errors, *gradients]

    return ours, literal


def _alone(network: StackedMLP, task: int, member: int) -> nn.Sequential:
    """One network of a stack as ordinary layers."""
    layers: list[nn.Module] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        layer = nn.Linear(*weight.shape[-2:], dtype=weight.dtype)
        layer.weight.data.copy_(weight[task, member].T)
        layer.bias.data.copy_(bias[task, member, 0])
        layers += [layer, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def task_models(experiment: Experiment, batch: TensorDictBase) -> Pair:
    """:func:`ensembles` with the models of a run, random data and the batch's precision."""
    part: Any = experiment.parts.parts[0]
    dtype = batch["transitions", "observation"].dtype
    network = copy.deepcopy(part.models.network).to(dtype)
    draw = torch.Generator().manual_seed(0)
    tasks, rows = network.stack[0], 2 * part.config.model_batch
    inputs, targets = (
        torch.randn(tasks, rows, size, generator=draw, dtype=dtype)
        for size in (network.weights[0].shape[-2], network.weights[-1].shape[-1])
    )
    return ensembles(network, inputs, targets, part.config.model_batch)


def in_double(experiment: Experiment, batch: TensorDictBase) -> tuple[Experiment, TensorDictBase]:
    """The agent and two tasks of the batch in double precision, to compare values."""
    batch = batch[:2].apply(lambda value: value.double() if value.is_floating_point() else value)
    return replace(experiment, loss=copy.deepcopy(experiment.loss).double()), batch


#: what is compared, to its method and its pair of forms
LITERAL: dict[str, tuple[str, Callable[[Experiment, TensorDictBase], Pair]]] = {
    "bound over all L^2 pairs": ("csro", bound),
    "five rounds, nothing detached": ("er_trl", rounds),
    "five rounds, only the encoder spared": ("er_trl", partial(rounds, through_encoder=False)),
    "a step of all task models in a Python loop": ("gentle", task_models),
}
