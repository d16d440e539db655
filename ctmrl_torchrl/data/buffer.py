"""The replay buffer of a dataset: samples are meta-batches, and checkpoints leave the data out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ImmutableDatasetWriter, ReplayBuffer, TensorDictReplayBuffer, TensorStorage

if TYPE_CHECKING:
    from ctmrl_torchrl.data.sampler import TaskSampler


class DatasetStorage(TensorStorage):
    """A storage whose state is only its length: a checkpoint must neither hold nor overwrite a dataset."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows."""
        return {"_len": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the state is of a dataset with as many rows.

        Raises:
            ValueError: if it is not.
        """
        if state_dict["_len"] != len(self):
            raise ValueError(
                f"the state is of a buffer on a dataset with {state_dict['_len']} transitions, this one has "
                f"{len(self)}; load the dataset that the run was started with"
            )

    def take(self, rows: Tensor) -> TensorDictBase:
        """The rows ``[n]``, gathered leaf by leaf: ``index_select`` takes half the time of ``data[rows]``."""
        return self._storage.apply(
            lambda leaf: leaf.index_select(0, rows.to(leaf.device)), batch_size=rows.shape
        )


class MetaReplayBuffer(TensorDictReplayBuffer):
    """A :class:`~torchrl.data.TensorDictReplayBuffer` whose samples are meta-batches.

    Made by :meth:`TaskDataset.replay_buffer`; the meta-batch is described at :class:`TaskSampler`. Unlike in
    its parent, rows are gathered once and split before the transform, which so sees the meta-batch;
    ``index`` is only returned by ``sample(return_info=True)``; ``state_dict`` holds no data, only where the
    draws stand.

    Args:
        data: the transitions, batch size ``[n]``.
        sampler: where the rows come from.
        generator: the generator of all draws.
        prefetch: batches drawn ahead in threads.
        transform: a callable or TorchRL transform for the meta-batch.
    """

    def __init__(
        self,
        data: TensorDictBase,
        sampler: TaskSampler,
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

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Return a meta-batch, or ``(meta-batch, {"index": [T, B + num_contexts * L]})``."""
        # The sampler may have been set to draw fewer contexts since: its size is the one that counts.
        self._batch_size = self._sampler.batch_size
        batch, info = ReplayBuffer.sample(self, batch_size, return_info=True)
        return (batch, info) if return_info else batch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken; the generator stays the same object, for others may share it."""
        generator = self._rng
        super().load_state_dict(state_dict)
        if generator is not None and state_dict["_rng"] is not None:
            generator.set_state(state_dict["_rng"][0])
            self.set_rng(generator)

    def _sample(self, batch_size: int) -> tuple[TensorDict, dict[str, Tensor]]:
        with self._replay_lock, self._write_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            batch = self._gather(index, info["task_id"][:, 0], info["mask"])
        if self._transform is not None and len(self._transform):
            batch = self._transform(batch)
        return batch, {"index": index}

    def _gather(self, index: Tensor, task_id: Tensor, mask: Tensor) -> TensorDict:
        sections = self._sampler.sections
        parts = index.split(sections, 1)
        # One flat gather in which each part is contiguous, so that the parts are plain views of it.
        rows = self._storage.take(torch.cat([part.flatten() for part in parts]))
        pieces = rows.split([part.numel() for part in parts], 0)
        views = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        batch = TensorDict(
            {"task_id": task_id.to(rows.device), "transitions": views[0]}, task_id.shape, device=rows.device
        )
        masks = mask.to(rows.device).split(sections, 1)
        for name, view, used in zip(("context", "context_positive"), views[1:], masks[1:], strict=False):
            batch.set(name, view.set("mask", used.contiguous()))
        return batch
