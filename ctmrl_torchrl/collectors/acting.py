"""Faster actors: the same modules in the same order, called without TensorDictModule overhead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import (
    ProbabilisticActor,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    SafeSequential,
    TanhNormal,
)

from ctmrl_torchrl.modules import SquashedNormal

#: a policy as a function that writes the action into a TensorDict and returns it
Act = Callable[[TensorDictBase], TensorDictBase]

#: what ``TanhNormal`` does without options
_UNIT = {"low": -1.0, "high": 1.0, "tanh_loc": False}

#: sequences that end in a distribution; subclasses may behave differently and are not unwrapped
_WITH_DISTRIBUTION = (
    ProbabilisticActor,
    SafeProbabilisticTensorDictSequential,
    ProbabilisticTensorDictSequential,
)


def bound(actor: TensorDictModuleBase) -> AbstractContextManager[TensorDictModuleBase]:
    """A context manager that keeps the actor's parameters inserted, for many calls with the same parameters.

    An actor that inserts parameters into a network at each call can provide a method ``bound`` that returns a
    context manager of the network with its parameters. Other actors are returned unchanged.

    Examples:
        >>> from ctmrl_torchrl.modules import make_actor
        >>> actor = make_actor(observation_dim=2, action_dim=2, context_dim=4)
        >>> with bound(actor) as ready:
        ...     ready is actor
        True
    """
    own: Any = getattr(actor, "bound", None)
    return nullcontext(actor) if own is None else own()


def direct(actor: TensorDictModuleBase) -> Act:
    """The actor as direct calls of its networks, with the same results in a fraction of the time.

    With small networks, most of an actor's time is overhead: dispatch, copies and conversions in each module of
    a sequence. This function supports a sequence of ``TensorDictModule`` networks with a final distribution,
    such as an actor from :func:`~ctmrl_torchrl.modules.make_actor`. Any other actor is returned unchanged.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_actor
        >>> actor = make_actor(observation_dim=2, action_dim=2, context_dim=4)
        >>> td = TensorDict({"observation": torch.ones(3, 2), "task_context": torch.ones(3, 4)}, [3])
        >>> torch.equal(direct(actor)(td.clone())["action"], actor(td)["action"])
        True
    """
    if type(actor) not in _WITH_DISTRIBUTION or actor.return_composite:
        return actor
    modules: list[Any] = _modules_of(actor)
    *networks, distribution = modules
    written = [key for key in actor.out_keys if key not in distribution.out_keys]
    if not all(map(_is_plain, networks)) or not {*distribution.in_keys} <= {*written} or _has_hooks(actor):
        return actor
    calls = [(module.module, module.in_keys, module.out_keys) for module in networks]
    squashed = distribution.out_keys[0] if _is_squashed(distribution) else None

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        known = {}
        for network, in_keys, out_keys in calls:
            read = [known[key] if key in known else tensordict.get(key) for key in in_keys]
            results = network(*read)
            known.update(zip(out_keys, results if isinstance(results, tuple) else (results,), strict=True))
        for key in written:
            tensordict.set(key, known[key])
        deterministic = exploration_type() is ExplorationType.DETERMINISTIC and not torch.is_grad_enabled()
        if squashed is None or not deterministic:
            return distribution(tensordict)
        return tensordict.set(squashed, _squash(known["loc"]))

    return act


def _is_squashed(module: Any) -> bool:
    """Whether the module only takes an action from a Gaussian squashed to [-1, 1]."""
    options = module.distribution_kwargs
    return (
        type(module) in (ProbabilisticTensorDictModule, SafeProbabilisticModule)
        and module.distribution_class in (TanhNormal, SquashedNormal)
        and isinstance(options, dict)
        and all(isinstance(option, (int, float)) for option in options.values())
        and _UNIT | options == _UNIT
        and {*module.in_keys} == {*module.dist_keys} == {"loc", "scale"}
        and module.num_samples is None
        and len(module.out_keys) == 1
        and not _has_hooks(module)
    )


def _squash(loc: Tensor) -> Tensor:
    """``TanhNormal.deterministic_sample`` of a mean."""
    limit = 1.0 - torch.finfo(loc.dtype).resolution
    return loc.tanh().clamp_(-limit, limit)


def _modules_of(module: Any) -> list[nn.Module]:
    """The modules of nested sequences in order; a sequence that cannot be unwrapped counts as one module."""
    whole = type(module) not in (*_WITH_DISTRIBUTION, TensorDictSequential, SafeSequential)
    if whole or module.partial_tolerant or module.inplace is False or _has_hooks(module):
        return [module]
    parts = module.module.values() if isinstance(module.module, nn.ModuleDict) else module.module
    return [each for part in parts for each in _modules_of(part)]


def _is_plain(module: nn.Module) -> bool:
    """Whether the module only calls its network with tensors."""
    return (
        type(module) is TensorDictModule
        and isinstance(module.module, nn.Module)
        and module.method is None
        and isinstance(module.in_keys, list)
        and getattr(module, "_kwargs", None) is None
        and module.out_keys == module.out_keys_source
        and not _has_hooks(module)
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
