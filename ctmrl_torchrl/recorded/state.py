"""What a recording depends on besides its inputs: tensors of the modules, and their plain Python values."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import torch
from tensordict import TensorDictBase, TensorDictParams
from torch import Tensor, nn

#: packages whose modules compute the same from the same state; others must say so with ``recordable = True``
_KNOWN = ("ctmrl_torchrl.", "torch.", "torchrl.", "tensordict.")
#: attributes that every module has and that change nothing in its computation
_INTERNAL = frozenset(vars(nn.Module())) - {"training", "_parameters", "_buffers", "_modules"}
#: hooks that run around a module's computation
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unknown_module(module: nn.Module) -> str | None:
    """The class of the first submodule that may depend on more than its attributes, or None.

    A class of another package is known if it has the attribute ``recordable = True``.
    """
    for each in module.modules():
        kind = type(each)
        if not _is_known(kind) and not getattr(kind, "recordable", False):
            return kind.__qualname__
        if any(isinstance(value, torch.Generator) for value in vars(each).values()):
            return f"{kind.__qualname__}, which has a random generator of its own,"
        if any(not _is_known(hook) for hooks in _HOOKS for hook in getattr(each, hooks).values()):
            return f"{kind.__qualname__}, which has hooks,"
    return None


def _is_known(defined: Any) -> bool:
    return f"{getattr(defined, '__module__', None)}.".startswith(_KNOWN)


def module_tensors(module: nn.Module) -> list[Tensor]:
    """Every parameter, buffer and tensor attribute below a module, each once."""
    found: dict[int, Tensor] = {}
    for each in module.modules():
        for value in _tensors_of(each):
            found.setdefault(id(value), value)
    return list(found.values())


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    if isinstance(module, TensorDictParams):
        yield from _leaves(module)
    for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
        if isinstance(value, TensorDictBase):
            yield from _leaves(value)
        elif isinstance(value, Tensor):
            yield value


def _leaves(tensordict: TensorDictBase) -> Iterable[Tensor]:
    values = tensordict.values(include_nested=True, leaves_only=True)
    return [value for value in values if isinstance(value, Tensor)]


class PythonState:
    """The attributes of a module and its submodules, for comparison with those of another time.

    Values are compared with ``==`` and other objects by identity, so a number that changed or a tensor that was
    replaced is noticed, also in a list or dictionary; another object that was modified in place is not.

    Args:
        module (nn.Module): the module; its structure must not change.

    Examples:
        >>> network = nn.Sequential(nn.Dropout(0.5))
        >>> state = PythonState(network)
        >>> before = state.now()
        >>> network[0].p = 0.1
        >>> state.same(before, state.now())
        False
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], Any]] = []
        self._tensors: list[dict[str, Any]] = []
        self._containers: list[tuple[dict[str, Any], str]] = []
        for each in module.modules():
            if not isinstance(each, TensorDictParams):  # whose attributes are caches
                attributes = vars(each)
                names = [name for name in attributes if name not in _INTERNAL]
                self._places.append((attributes, itemgetter(*names)))
                self._containers += [(attributes, name) for name in names if _is_container(attributes[name])]
            self._tensors += [held for held in (each._parameters, each._buffers) if held]
        self._addressed = module_tensors(module)

    def now(self) -> tuple[Any, ...]:
        """The present values."""
        values = [(len(attributes), values(attributes)) for attributes, values in self._places]
        tensors = [list(held.values()) for held in self._tensors]
        inside = [copy.copy(attributes[name]) for attributes, name in self._containers]
        return values, inside, tensors, [(value.data_ptr(), value.requires_grad) for value in self._addressed]

    @staticmethod
    def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
        """Whether two states are equal."""
        try:
            return bool(first == second)
        except (RuntimeError, TypeError, ValueError):  # a tensor was replaced and has more than one element
            return False


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, set))


def copied(values: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the present values of tensors."""
    return [value.detach().clone() for value in values]


@torch.no_grad()
def restore(tensors: Iterable[Tensor], saved: Iterable[Tensor]) -> None:
    """Write saved values back into tensors, where they differ."""
    for value, before in zip(tensors, saved, strict=True):
        if not equal(value, before):
            value.copy_(before)


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN equals NaN."""
    if torch.equal(first, second):
        return True
    if first.shape != second.shape or not first.is_floating_point():
        return False
    return torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)


def random_states(device: torch.device | None) -> list[Tensor]:
    """The states of the CPU's random generator and of a GPU's, if one is given."""
    return [torch.get_rng_state(), *([] if device is None else [torch.cuda.get_rng_state(device)])]


def set_random_states(states: list[Tensor], device: torch.device | None) -> None:
    """Load what :func:`random_states` returned."""
    torch.set_rng_state(states[0])
    if device is not None:
        torch.cuda.set_rng_state(states[1], device)
