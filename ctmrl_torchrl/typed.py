"""Functions of PyTorch and TensorDict whose annotations are narrower than what they accept, typed as used here.

At run time these are the functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tensordict import TensorDictBase
    from tensordict.nn import TensorDictModuleBase, TensorDictSequential
    from torch import Tensor

    _Function = TypeVar("_Function", bound=Callable[..., Any])
    _Stacked = TypeVar("_Stacked", bound=TensorDictBase)

    def dispatch(function: _Function, /) -> _Function:
        """``tensordict.nn.dispatch`` as a decorator without arguments, which its annotation lacks."""
        ...

    def stack_tensordicts(items: Sequence[_Stacked], dim: int = 0) -> _Stacked:
        """``torch.stack`` of TensorDicts, which torch annotates for tensors only."""
        ...

    def cat_tensordicts(items: Sequence[_Stacked], dim: int = 0) -> _Stacked:
        """``torch.cat`` of TensorDicts, which torch annotates for tensors only."""
        ...

    def total(items: Iterable[Tensor], /) -> Tensor:
        """``sum`` of at least one tensor; the annotation of ``sum`` allows for none, which give 0."""
        ...

    def sequential(*modules: TensorDictModuleBase, **options: Any) -> TensorDictSequential:
        """``tensordict.nn.TensorDictSequential``, whose annotation expects a list in place of each module."""
        ...
else:
    total = sum
    from tensordict.nn import TensorDictSequential as sequential
    from tensordict.nn import dispatch
    from torch import cat as cat_tensordicts
    from torch import stack as stack_tensordicts

__all__ = ["cat_tensordicts", "dispatch", "sequential", "stack_tensordicts", "total"]
