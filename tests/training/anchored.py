"""A method of a user's own with a part that uses every moment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from tensordict.utils import NestedKey
from tiny_experiments import tiny_config

from ctmrl_torchrl.methods import Part, RepresentationConfig
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives import RepresentationLoss

PREPARATIONS = 6
UPDATES = 8


class PullLoss(RepresentationLoss):
    """Draws contexts to an entry of the meta-batch that no dataset has: a part adds it."""

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        anchor: NestedKey = "anchor"

    default_keys = _AcceptedKeys
    out_keys = ["loss_pull", "anchor_distance", "anchor_size"]

    @property
    def in_keys(self):
        return [self.tensor_keys.task_context, self.tensor_keys.anchor]

    def forward(self, tensordict):
        keys = self.tensor_keys
        context, anchor = (read(tensordict, key, "PullLoss") for key in (keys.task_context, keys.anchor))
        distance = (context - anchor).square().mean()
        out = {"loss_pull": distance, "anchor_distance": distance.detach().sqrt()}
        return TensorDict(out | {"anchor_size": anchor.norm(dim=-1).mean()}, [])


class Anchors(Part):
    """Learns anchors beforehand, adds them to every batch, and trains an adversary on the contexts."""

    name = "anchors"
    metric_groups = {"anchor_distance": "anchors"}
    in_keys = [("context", "next", "observation")]

    def __init__(self, setting):
        self.setting = setting
        self.calls, self.prepared, self.updates, self.answers = [], 0, 0, []
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            self.anchor = torch.nn.Linear(setting.problem.observation_dim, 4)
            self.adversary = torch.nn.Linear(4, setting.problem.observation_dim)
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), 0.01) for name in ("anchor", "adversary")
        }

    def _step(self, name, loss):
        loss.backward()
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    def prepare(self, checkpoint):
        self.calls.append(("prepare", self.prepared))
        while self.prepared < PREPARATIONS:
            places = self._places(self.setting.draw_contexts())
            noisy = self.anchor(places) + 0.1 * torch.randn(len(places), 4)
            self._step("anchor", (noisy.std(0) - 1).square().mean())
            self.prepared += 1
            checkpoint()

    @staticmethod
    def _places(batch):
        return batch["context", "next", "observation"].mean(1)

    def before_update(self, update):
        self.calls.append(("before_update", update))

    def batch(self, batch):
        self.calls.append(("batch", len(batch)))
        return batch.set("anchor", self.anchor(self._places(batch)).detach())

    def inner_steps(self, batch, contexts):
        self.calls.append(("inner_steps", sorted(contexts.keys())))
        self.seen = batch, contexts
        error = (self.adversary(contexts["task_context"]) - self._places(batch)).square().mean()
        self._step("adversary", error)
        self.answers.append(error.item())

    def after_update(self, update):
        self.calls.append(("after_update", update))
        self.updates += 1

    def candidates(self):
        return self.anchor.weight.detach().mT

    def milestones(self):
        return {"halfway": UPDATES / 2}

    def summary(self):
        return {"anchors": {"prepared": self.prepared, "updates": self.updates}}

    def draw(self, drawing):
        self.drawing = drawing
        (drawing.folder / "anchors.png").write_bytes(b"a picture")

    def state_dict(self):
        return {
            "prepared": self.prepared,
            "updates": self.updates,
            "answers": list(self.answers),
            "anchor": self.anchor.state_dict(),
            "adversary": self.adversary.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
        }

    def load_state_dict(self, state):
        self.prepared, self.updates, self.answers = state["prepared"], state["updates"], state["answers"]
        self.anchor.load_state_dict(state["anchor"])
        self.adversary.load_state_dict(state["adversary"])
        for name, each in self.optimizers.items():
            each.load_state_dict(state["optimizers"][name])


@dataclass
class PullConfig(RepresentationConfig):
    name: str = "pull"

    @property
    def num_candidates(self):
        return 2

    def build(self, problem, context_dim):
        return PullLoss()

    def parts(self, setting):
        return [Anchors(setting)]


def pull_config(dataset_root, run_dir, changes=None, **fields):
    changes = {"schedule.updates": UPDATES, "evaluation.every": 0} | (changes or {})
    return tiny_config(dataset_root, run_dir, changes, **({"representation": PullConfig()} | fields))
