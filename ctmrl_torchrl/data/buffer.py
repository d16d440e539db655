"""The replay buffer of a dataset, whose samples are meta-batches and whose checkpoints exclude the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import ImmutableDatasetWriter, ReplayBuffer, TensorDictReplayBuffer, TensorStorage

#: parts of a meta-batch, in the order of the index's columns
PARTS = ("transitions", "context", "context_positive")


class MetaBatchSampler(Protocol):
    """The sampler interface of the buffer, implemented by :class:`~ctmrl_torchrl.data.TaskSampler`.

    Attributes:
        dataset: the dataset whose rows are sampled.
        sections: sizes of the column blocks of an index: transitions, then each context.
        batch_size: number of rows of one sample, over all tasks.
    """

    dataset: Any

    @property
    def sections(self) -> list[int]:
        """Sizes of the parts of an index."""
        ...

    @property
    def batch_size(self) -> int:
        """Number of rows of one sample."""
        ...

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample the index ``[T, columns]``, with ``task_id`` and ``mask`` of the same shape."""
        ...


class DatasetStorage(TensorStorage):
    """A storage whose state is only its length, because checkpoints must not contain or overwrite a dataset."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows."""
        return {"_len": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the state belongs to a dataset of equal length.

        Raises:
            ValueError: if the lengths differ.
        """
        if state_dict["_len"] != len(self):
            raise ValueError(
                f"the state belongs to a dataset with {state_dict['_len']} transitions, but this one has "
                f"{len(self)}; load the dataset that the run was started with"
            )


def take_rows(data: TensorDictBase, rows: Tensor) -> TensorDictBase:
    """``data[rows]``, computed per leaf with ``index_select`` on flat rows, which takes half the time.

    Args:
        data: ``[n]``.
        rows: int64 ``[T, m]``, on the data's device.
    """
    flat, shape = rows.flatten(), rows.shape
    return data.apply(
        lambda leaf: leaf.index_select(0, flat).view(*shape, *leaf.shape[1:]),
        batch_size=shape,
        device=rows.device,
    )


class MetaReplayBuffer(TensorDictReplayBuffer):
    """A :class:`~torchrl.data.TensorDictReplayBuffer` whose samples are meta-batches.

    Created by :meth:`TaskDataset.replay_buffer`; see :class:`TaskSampler` for the meta-batch. Unlike in its
    parent, rows are gathered once and split before the transform, which therefore receives the meta-batch.
    ``index`` is only returned by ``sample(return_info=True)``. ``state_dict`` contains no data, only the
    sampling state.

    ``buffer.only = loss.in_keys``, a list of keys, gathers only the entries that a loss reads, without changing
    the sampled rows. A sample then has ``task_id``, the contexts' ``mask`` and these entries, under their names
    before the transform; ``"context"`` alone asks for all entries of that part. None, the default, gathers all.
    Prefetched batches keep their earlier selection.

    Args:
        data: the transitions, batch size ``[n]``.
        sampler: samples the rows.
        generator: the generator of all sampling.
        prefetch: number of batches sampled ahead in threads.
        transform: a callable or TorchRL transform for the meta-batch.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe, ContextDraw, TaskSampler, collect_task_dataset
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> dataset = collect_task_dataset("point_robot", recipe=recipe)
        >>> sampler = TaskSampler(
        ...     dataset, task_ids=[0, 1, 3], tasks_per_batch=2, transitions_per_task=5,
        ...     context=ContextDraw(trajectories=(1, 4)), num_contexts=1)
        >>> buffer = dataset.replay_buffer(sampler)
        >>> buffer.only = [("context", "next", "reward"), ("transitions", "observation")]
        >>> sorted(map(str, buffer.sample().keys(include_nested=True, leaves_only=True)))
        ["('context', 'mask')", "('context', 'next', 'reward')", "('transitions', 'observation')", 'task_id']
    """

    def __init__(
        self,
        data: TensorDictBase,
        sampler: MetaBatchSampler,
        *,
        generator: torch.Generator | None = None,
        prefetch: int | None = None,
        transform: Callable[[TensorDictBase], TensorDictBase] | None = None,
    ) -> None:
        super().__init__(
            storage=DatasetStorage(data, device="auto"),
            writer=ImmutableDatasetWriter(),
            sampler=sampler,
            batch_size=sampler.batch_size,
            generator=generator,
            prefetch=prefetch,
            transform=transform,
        )
        self._data = data
        self._data_device = next(iter(data.values(True, True))).device
        self._only: list[NestedKey] | None = None
        self._sources = dict.fromkeys(PARTS, data)

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Return a meta-batch, or ``(meta-batch, {"index": [T, B + num_contexts * L]})``."""
        # The sampler may have been changed to fewer contexts, so its current size is used.
        self._batch_size = cast(MetaBatchSampler, self._sampler).batch_size
        batch, info = ReplayBuffer.sample(self, batch_size, return_info=True)
        return (batch, info) if return_info else batch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; the generator remains the same object, because it may be shared."""
        generator = self._rng
        super().load_state_dict(state_dict)
        if generator is not None and state_dict["_rng"] is not None:
            generator.set_state(state_dict["_rng"][0])
            self.set_rng(generator)

    def _sample(self, batch_size: int) -> tuple[TensorDict, dict[str, Tensor]]:
        with self._replay_lock, self._write_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            batch = self._gather(index, info["task_id"][:, 0], info["mask"])
        if self._transform is not None and len(cast(Sized, self._transform)):
            batch = self._transform(batch)
        return batch, {"index": index}

    @property
    def only(self) -> list[NestedKey] | None:
        """The entries of the meta-batch to gather, a list of keys; None for all."""
        return self._only

    @only.setter
    def only(self, keys: Iterable[NestedKey] | None) -> None:
        if isinstance(keys, tuple) and keys and keys[0] in PARTS:
            raise ValueError(
                f"buffer.only must be a list of keys, got {keys!r}, which is one key or a tuple of them; write "
                f"[{keys!r}] for the one key, or {list(keys)!r} for several"
            )
        if isinstance(keys, str):
            keys = (keys,)
        keys = None if keys is None else list(keys)
        if keys == self._only:
            return
        self._only = keys
        below: dict[str, list[NestedKey]] = {part: [] for part in PARTS}
        for key in map(unravel_key, keys or []):
            part, *rest = key if isinstance(key, tuple) else (key,)
            below.get(str(part), []).extend([tuple(rest)] if rest else self.fields)
        self._sources = {
            part: self._data if keys is None else self._data.select(*below[part], strict=False)
            for part in PARTS
        }

    @property
    def fields(self) -> list[NestedKey]:
        """The entries of a transition, each of which can be requested below the parts of a meta-batch."""
        return sorted(self._data.keys(True, True), key=str)

    def _gather(self, index: Tensor, task_id: Tensor, mask: Tensor) -> TensorDict:
        sections, device = cast(MetaBatchSampler, self._sampler).sections, self._data_device
        batch: dict[str, Any] = {"task_id": task_id.to(device)}
        index = index.to(device)
        parts = zip(PARTS, index.split(sections, 1), mask.to(device).split(sections, 1), strict=False)
        for name, rows, used in parts:
            batch[name] = take_rows(self._sources[name], rows)
            if name != "transitions":
                batch[name].set("mask", used.contiguous())
        return TensorDict(batch, task_id.shape, device=device)
