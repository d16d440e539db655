"""Every registered loss, alone and composed, with a batch for it, and the same batch and networks renamed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from registered import LENGTH, TASKS, Composition, compositions, meta_batch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule
from torch import nn

from ctmrl_torchrl.methods import REPRESENTATIONS
from ctmrl_torchrl.modules.keys import join_key, rest_of_key
from ctmrl_torchrl.objectives.meta import HANDED_ON
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES


@dataclass(frozen=True)
class Subject:
    """A composed loss, or the representation or policy loss in it.

    Args:
        composition: what is composed.
        part: ``"representation"`` or ``"policy"``; empty for the whole.
    """

    composition: Composition
    part: str = ""

    def build(self):
        loss = self.composition.build().eval()
        return getattr(loss, self.part) if self.part else loss

    def batch(self, *, padded=False):
        """An input; with padding and repeated tasks, optional entries have an effect."""
        batch = meta_batch()
        if padded:
            batch["task_id"] = torch.tensor([0, 0, 1, 2, 2])
            for number, draw in enumerate(("context", "context_positive")):
                batch[draw, "mask"] = torch.arange(LENGTH) < torch.arange(TASKS).unsqueeze(-1) + 2 + number
        if not self.part:
            return batch
        torch.manual_seed(0)
        loss = self.composition.build().eval()
        contexts = loss.representation.contexts(loss.encoding(batch))
        if self.part == "policy":
            return loss.policy_batch(batch, contexts["task_context"].detach()).clone()
        for name in HANDED_ON:
            if hasattr(loss.representation.tensor_keys, name) and (padded or name in contexts):
                batch[name] = contexts.get(name, torch.randn(TASKS, 4)).detach()
        return batch

    def networks(self, loss):
        """The networks that must be built with the names that they read, as in TorchRL.

        A representation loss calls its own networks under the names that they have.
        """
        policy = {"policy": loss, "": getattr(loss, "policy", None)}.get(self.part)
        found = (
            [] if policy is None else [each for each in vars(policy).values() if isinstance(each, nn.Module)]
        )
        return found if self.part else [loss.context_encoder, *found]

    @property
    def id(self):
        composition = self.composition
        return getattr(composition, f"{self.part}_loss" if self.part == "policy" else self.part or "id")


def subjects():
    """Every composition, and every registered loss alone."""
    found = [Subject(each) for each in compositions()]
    found += [Subject(Composition(representation=name), "representation") for name in REPRESENTATIONS]
    return found + [Subject(Composition(policy_loss=name), "policy") for name in POLICY_LOSSES]


def keyed(loss):
    """The accepted keys that have a name at present."""
    return {name: key for name, key in asdict(loss.tensor_keys).items() if key is not None}


def renamed_batch(batch, old, new):
    """Move entries, in the batch or one level below it, unless they keep their name for another reader.

    Args:
        old: the key of every accepted name. new: other keys of some of them.
    """
    batch = batch.clone()
    inner = [value for value in batch.values() if isinstance(value, TensorDictBase)]
    staying = {old[name] for name in old if name not in new}
    for place in [*inner, batch]:
        values = {new[name]: place.get(old[name], None) for name in new}
        for name in new:
            if old[name] not in staying and place.get(old[name], None) is not None:
                place.del_(old[name])
        for key, value in values.items():
            if value is not None:
                place.set(key, value)
    return batch


def rename_networks(networks, old, new):
    """Let networks read and write other keys, as if they had been built with them."""

    def other(key):
        for name in new:
            rest = rest_of_key(key, old[name])
            if rest is not None:
                return join_key(new[name], *rest)
        return key

    for module in {id(each): each for network in networks for each in network.modules()}.values():
        sampled = isinstance(module, ProbabilisticTensorDictModule)  # its out_keys are derived
        for attribute in ("in_keys", "_out_keys" if sampled else "out_keys"):
            if isinstance(getattr(module, attribute, None), list):
                setattr(module, attribute, [other(key) for key in getattr(module, attribute)])
        if getattr(module, "mask_key", None) is not None:
            module.mask_key = other(module.mask_key)
