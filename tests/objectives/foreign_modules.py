"""A user's own networks and names: plain TensorDict modules, none of this library's factories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from conformance import seeded
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.modules import NormalParamExtractor, TanhNormal
from torchrl.objectives import SACLoss

from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.objectives import BRACSACLoss, CQVAELoss, MetaLoss, make_iql_loss

OBSERVATION, ACTION, FORCE = 3, 2, 4


@dataclass(frozen=True)
class Names:
    """Every key of a pipeline; the defaults are the library's."""

    context: tuple | str = "context"
    positive: tuple | str = "context_positive"
    transitions: tuple | str = "transitions"
    z: tuple | str = "task_context"
    positive_z: tuple | str = "task_context_positive"
    task_id: tuple | str = "task_id"
    obs: tuple | str = "observation"
    act: tuple | str = "action"
    force: tuple | str = "force"
    gain: tuple | str = "reward"
    over: tuple | str = "done"
    dead: tuple | str = "terminated"
    real: tuple | str = "mask"
    q: tuple | str = "state_action_value"
    v: tuple | str = "state_value"


PLAIN = Names()
NESTED = Names(
    context=("support", "first"),
    positive=("support", "second"),
    transitions=("query", "steps"),
    z=("latent", "z"),
    positive_z=("latent", "other"),
    task_id=("info", "task"),
    obs=("data", "obs"),
    act=("data", "act"),
    force=("data", "sensors", "force"),
    gain=("outcome", "gain"),
    over=("outcome", "over"),
    dead=("outcome", "dead"),
    real=("outcome", "real"),
    q=("critic", "q"),
    v=("critic", "v"),
)


class Net(nn.Module):
    """A user's network: joins what it is given, and may pool over the transitions."""

    def __init__(self, inputs, outputs, pool=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))
        self.pool = pool

    def forward(self, *inputs):
        out = self.layers(torch.cat(inputs, -1))
        return out.mean(-2) if self.pool else out


def encoder(names, latent):
    """Two nodes, the first of which writes an intermediate entry beside the features."""
    features = [join_key(names.context, key) for key in (names.obs, names.act, names.force)]
    hidden = join_key(names.context, "hidden")
    return TensorDictSequential(
        TensorDictModule(Net(OBSERVATION + ACTION + FORCE, 6), features, [hidden]),
        TensorDictModule(Net(6, latent, pool=True), [hidden], [names.z]),
    )


def predictor(names, latent, size):
    return TensorDictModule(
        Net(OBSERVATION + ACTION + latent, size), [names.obs, names.act, names.z], [("guess", "mean")]
    )


def actor(names, latent, distribution=TanhNormal):
    return ProbabilisticTensorDictSequential(
        TensorDictModule(Net(OBSERVATION + latent, 2 * ACTION), [names.obs, names.z], [("pi", "raw")]),
        TensorDictModule(NormalParamExtractor(), [("pi", "raw")], [("pi", "loc"), ("pi", "scale")]),
        ProbabilisticTensorDictModule(
            in_keys={"loc": ("pi", "loc"), "scale": ("pi", "scale")},
            out_keys=[names.act],
            distribution_class=distribution,
        ),
    )


def policy(kind, names, latent, distribution=TanhNormal):
    """A policy loss on the user's networks, its keys set."""
    q_keys = [names.obs, names.act, names.z]
    pi = actor(names, latent, distribution)
    q = TensorDictModule(Net(OBSERVATION + ACTION + latent, 1), q_keys, [names.q])
    v = TensorDictModule(Net(OBSERVATION + latent, 1), [names.obs, names.z], [names.v])
    if kind == "iql":
        loss = make_iql_loss(pi, q, v)
    elif kind == "sac":  # TorchRL's own, untouched
        loss = SACLoss(pi, q, action_spec=None, target_entropy=-2.0, fixed_alpha=True)
        loss.set_keys(state_action_value=names.q)
    else:
        witness = TensorDictModule(Net(OBSERVATION + ACTION + latent, 1), q_keys, ["witness"])
        loss = BRACSACLoss(pi, q, v, behaviour_critic=witness if kind == "brac_sac_penalty" else None)
    loss.set_keys(action=names.act, reward=names.gain, done=names.over, terminated=names.dead)
    return loss


def make_loss(kind, names=PLAIN, latent=5, codes=3, seed=0, **options):
    """The whole objective of a user's pipeline."""

    def build():
        representation = CQVAELoss(
            Codebook(codes, latent, in_key=names.z, index_key=("c", "i"), out_key=("c", "code")),
            predictor(names, latent, 1),
            predictor(names, latent, OBSERVATION),
            extra_negatives=4,
            reduction="mean",
        )
        representation.set_keys(
            task_id=names.task_id,
            observation=names.obs,
            action=names.act,
            reward=join_key("next", names.gain),
            next_observation=join_key("next", names.obs),
            mask=names.real,
        )
        loss = MetaLoss(encoder(names, latent), representation, policy(kind, names, latent, **options))
        loss.set_keys(
            context=names.context,
            context_positive=names.positive,
            transitions=names.transitions,
            task_context=names.z,
            task_context_positive=names.positive_z,
        )
        return loss

    return seeded(build, seed)


def transitions(names, *shape):
    td, never = TensorDict({}, shape), torch.zeros(*shape, 1, dtype=torch.bool)
    for key, size in ((names.obs, OBSERVATION), (names.act, ACTION), (names.force, FORCE)):
        td[key] = torch.rand(*shape, size) * 2 - 1
    td[join_key("next", names.obs)] = torch.randn(*shape, OBSERVATION)
    td[join_key("next", names.gain)] = torch.randn(*shape, 1)
    td[join_key("next", names.over)], td[join_key("next", names.dead)] = never, never.clone()
    return td


def batch(names=PLAIN, tasks=4, seed=0):
    """A meta-batch under the user's names."""

    def build():
        td = TensorDict({names.task_id: torch.tensor([3, 1, 1, 7])[:tasks]}, [tasks])
        for key in (names.context, names.positive):
            td[key] = transitions(names, tasks, 7)
        td[names.context][names.real] = torch.arange(7) < torch.tensor([[7], [2], [5], [7]])[:tasks]
        td[names.transitions] = transitions(names, tasks, 6)
        return td

    return seeded(build, seed)
