"""Encoders that read the task id: the oracle's privileged context."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read


class TaskParameters(TensorDictModuleBase):
    """Looks up the parameters of a task: an encoder with privileged information and no trainable parameters.

    Args:
        parameters (Tensor): ``[tasks, d]``, one row per ``task_id``.

    Keyword Args:
        in_key, out_key (NestedKey): default ``"task_id"`` and ``"task_context"``.

    Keys:
        - reads ``in_key`` ``[*]``, integers
        - writes ``out_key`` ``[*, d]``

    Raises:
        KeyError: if the input lacks ``in_key``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> told = TaskParameters(torch.tensor([[0.5], [2.0]]))
        >>> told(TensorDict({"task_id": torch.tensor([1, 0, 1])}, [3]))["task_context"].flatten()
        tensor([2.0000, 0.5000, 2.0000])
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]
    table: Tensor

    def __init__(
        self, parameters: Tensor, *, in_key: NestedKey = "task_id", out_key: NestedKey = "task_context"
    ) -> None:
        super().__init__()
        self.in_keys, self.out_keys = [in_key], [out_key]
        self.register_buffer("table", parameters.clone())

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the parameters of every row's task."""
        task_id = read(tensordict, self.in_keys[0], str(type(self).__name__))
        return tensordict.set(self.out_keys[0], self.table[task_id.long()])
