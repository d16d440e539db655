"""The losses under conformance tests, and what each of them promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from meta_batches import FEATURES, meta_batch, policy_loss, predictors, transitions
from tensordict import TensorDictBase

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import CQVAELoss, CTMRLLoss, MetaLoss, ReleasedCTMRLLoss

POLICY_KINDS = ("brac_sac", "brac_sac_penalty", "iql")


def seeded(function, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function()


def is_loss(name):
    return name.startswith("loss_")


def run(loss, batch, seed=3):
    torch.manual_seed(seed)
    return loss(batch)


def keywords(loss, batch):
    return {"_".join(key) if isinstance(key, tuple) else key: batch.get(key) for key in loss.in_keys}


def policy_batch(*shape):
    def build():
        td = transitions(*shape)
        td["task_context"], td["next", "task_context"] = torch.randn(*shape, 4), torch.randn(*shape, 4)
        td["next", "terminated"] = torch.rand(*shape, 1) < 0.3
        td["next", "done"] = td["next", "terminated"] | (torch.rand(*shape, 1) < 0.3)
        return td

    return seeded(build, 1)


def representation_batch():
    td = meta_batch()
    for seed, key in enumerate(("task_context", "task_context_positive")):
        td[key] = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    return td


def make_cqvae(**options):
    return CQVAELoss(modules.Codebook(3, 4), *predictors(), **({"extra_negatives": 4} | options))


def make_encoder():
    return modules.make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=(8,))


def make_meta(kind, reduction="mean", **options):
    representation = make_cqvae(reduction=reduction, **options)
    return MetaLoss(make_encoder(), representation, policy_loss(kind, reduction=reduction))


def make_relabelling(kind, **options):
    return make_meta(kind, relabelled_fraction=0.7, **options)


def make_ctmrl(kind, reduction="mean", **options):
    policy = policy_loss(kind, reduction=reduction, **options)
    codebook = modules.Codebook(3, 4)
    return CTMRLLoss(make_encoder(), codebook, *predictors(), policy, extra_negatives=4, reduction=reduction)


def released_batch():
    td = representation_batch()
    td["task_context_reconstructed"] = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    td["transition_contexts"] = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(3))
    return td


def make_released(**options):
    sizes = dict(observation_dim=2, action_dim=2, context_dim=4, hidden=(8,))
    guess = modules.make_behaviour_posterior(**sizes)
    return ReleasedCTMRLLoss(modules.Codebook(3, 4), *predictors(), guess, **options)


def make_released_meta(kind, reduction="mean", transition_key="transition_contexts", **options):
    encoder = modules.make_context_encoder(
        feature_dims=FEATURES, context_dim=4, hidden=(8,), transition_key=transition_key
    )
    return MetaLoss(
        encoder, make_released(reduction=reduction, **options), policy_loss(kind, reduction=reduction)
    )


@dataclass
class Case:
    """A loss and its promises.

    Args:
        make: builds the loss; takes ``reduction``.
        batch: builds an input.
        keys: the accepted keys and their defaults.
        owners: what each loss term reaches, by the start of parameter names.
        targets: names of the moving target parameters.
        writes: what may be added to the input.
        estimates: whether it has a value estimator.
        noisy: terms with random numbers in them, which differ between types and devices.
    """

    make: Callable
    batch: Callable[[], TensorDictBase]
    keys: dict[str, str | tuple[str, ...]]
    owners: dict[str, set[str]]
    targets: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    estimates: bool = True
    noisy: set[str] = field(default_factory=set)

    def build(self, seed=0, **options):
        """The loss, made under a seed, with targets apart from their networks."""
        loss = seeded(lambda: self.make(**options), seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for name in self.targets:
                dict(loss.named_children())[name].apply_(lambda p: p.data.add_(0.1 * torch.randn_like(p)))
        return loss


OUTCOME = {name: name for name in ("action", "reward", "done", "terminated", "state_action_value")}
ACTOR_CRITIC = {
    "loss_actor": {"actor_network_params"},
    "loss_qvalue": {"qvalue_network_params"},
    "loss_value": {"value_network_params"},
}
WITHOUT_VALUE = {name: ACTOR_CRITIC[name] for name in ("loss_actor", "loss_qvalue")}
PENALTY = {"loss_behaviour_critic": {"behaviour_critic_params"}}
PREDICTORS = {"predictors.reward_predictor", "predictors.next_observation_predictor"}
REPRESENTATION = {
    "loss_prediction": PREDICTORS,
    "loss_cross_prediction": PREDICTORS | {"codebook"},
    "loss_code": {"codebook"},
    "loss_contrastive": set(),
}
RELEASED = {
    "loss_metric": set(),
    "loss_club": set(),
    "loss_guess": {"behaviour_posterior"},
    "loss_prediction": PREDICTORS,
    "loss_cycle": {"codebook"},
    "loss_commitment": set(),
    "loss_code_contrast": {"codebook"},
    "loss_contrastive": set(),
}
CQVAE_KEYS = {
    "task_context": "task_context",
    "task_context_positive": "task_context_positive",
    "task_id": "task_id",
    "prediction": "context",
    "observation": "observation",
    "action": "action",
    "reward": ("next", "reward"),
    "next_observation": ("next", "observation"),
    "mask": "mask",
}
NEW_CONTEXTS = {name: name for name in ("task_context_reconstructed", "transition_contexts")}
META_KEYS = NEW_CONTEXTS | {
    name: name
    for name in ("context", "context_positive", "transitions", "task_context", "task_context_positive")
}
BRAC = dict(
    batch=lambda: policy_batch(4, 6),
    keys=OUTCOME | {"state_value": "state_value"},
    targets={"target_value_network_params"},
)
POLICIES = {
    "brac_sac": Case(lambda **o: policy_loss("brac_sac", **o), owners=ACTOR_CRITIC, **BRAC),
    "brac_sac_penalty": Case(
        lambda **o: policy_loss("brac_sac_penalty", **o), owners=ACTOR_CRITIC | PENALTY, **BRAC
    ),
    "iql": Case(
        lambda **o: policy_loss("iql", **o),
        batch=lambda: policy_batch(4, 6),
        keys=OUTCOME | {"value": "state_value", "priority": "td_error", "log_prob": "_log_prob"},
        owners=ACTOR_CRITIC,
        targets={"target_qvalue_network_params"},
        writes={"td_error"},
    ),
    **{
        kind: Case(
            lambda kind=kind, **o: policy_loss(kind, **o),
            batch=lambda: policy_batch(4, 6),
            keys=OUTCOME | {"priority": "td_error"},
            owners=WITHOUT_VALUE | terms,
            targets=targets,
            writes={"td_error"},
            noisy={"loss_qvalue"},
        )
        for kind, terms, targets in (
            ("td3_bc", {}, {"target_actor_network_params", "target_qvalue_network_params"}),
            ("td3_bc_gentle", {}, {"target_actor_network_params", "target_qvalue_network_params"}),
            ("sac", {}, {"target_qvalue_network_params"}),
            ("sac_learned", {"loss_alpha": {"log_alpha"}}, {"target_qvalue_network_params"}),
        )
    },
}
#: policy losses without critics
IMITATION = {
    "bc": Case(
        lambda **o: policy_loss("bc", **o),
        batch=lambda: policy_batch(4, 6),
        keys={"action": "action", "pad_mask": None},
        owners={"loss_bc": {"actor_network_params"}},
        estimates=False,
    ),
}


def composed(make, kind, terms=REPRESENTATION, encoding=("loss_prediction", "loss_code", "loss_contrastive")):
    """A loss that holds the policy loss of this kind and a representation loss of these terms."""
    inner = (POLICIES | IMITATION)[kind]
    owners = {name: {f"representation.{part}" for part in parts} for name, parts in terms.items()}
    for name in encoding:
        owners[name] = owners[name] | {"context_encoder"}
    owners |= {name: {f"policy.{part}" for part in parts} for name, parts in inner.owners.items()}
    return Case(
        lambda **o: make(kind, **o),
        batch=meta_batch,
        keys=META_KEYS,
        owners=owners,
        targets=inner.targets,
        noisy=inner.noisy,
        estimates=inner.estimates,
    )


# The cycle reaches only the predictors of what the encoder reads.
CYCLE = {"loss_cycle": {"codebook", "predictors.reward_predictor"}}
ENCODING = ("loss_metric", "loss_club", "loss_cycle", "loss_commitment", "loss_contrastive")
CASES = {
    "released": Case(
        make_released, released_batch, keys=CQVAE_KEYS | NEW_CONTEXTS, owners=RELEASED, estimates=False
    ),
    "meta_released": composed(make_released_meta, "brac_sac", RELEASED | CYCLE, ENCODING),
    "cqvae": Case(make_cqvae, representation_batch, keys=CQVAE_KEYS, owners=REPRESENTATION, estimates=False),
    **POLICIES,
    **IMITATION,
    "meta_brac_sac": composed(make_meta, "brac_sac"),
    "meta_relabelling": composed(make_relabelling, "iql"),
    "meta_td3_bc": composed(make_meta, "td3_bc"),
    "meta_sac": composed(make_meta, "sac_learned"),
    "meta_bc": composed(make_meta, "bc"),
    **{f"ctmrl_{kind}": composed(make_ctmrl, kind) for kind in POLICY_KINDS},
}
