"""Small meta-batches and losses for the tests of the objectives."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss, make_iql_loss
from ctmrl_torchrl.objectives.policy.bc import make_bc_loss
from ctmrl_torchrl.objectives.policy.sac import make_sac_loss
from ctmrl_torchrl.objectives.policy.td3_bc import make_td3_bc_loss

SIZES = {"observation_dim": 2, "context_dim": 4, "hidden": (8,)}
FEATURES = {("context", "observation"): 2, ("context", "action"): 2, ("context", "next", "reward"): 1}


def transitions(*shape, mask=None):
    never = torch.zeros(*shape, 1, dtype=torch.bool)
    following = {
        "observation": torch.randn(*shape, 2),
        "reward": torch.randn(*shape, 1),
        "done": never.clone(),
        "terminated": never.clone(),
    }
    td = TensorDict(
        {"observation": torch.randn(*shape, 2), "action": torch.rand(*shape, 2) * 2 - 1, "next": following},
        shape,
    )
    return td if mask is None else td.set("mask", mask)


def meta_batch(tasks=5, seed=0, mask=None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TensorDict(
            {
                "context": transitions(tasks, 7, mask=mask),
                "context_positive": transitions(tasks, 7, mask=mask),
                "transitions": transitions(tasks, 6),
            },
            [tasks],
        )


def policy_networks():
    return (
        modules.make_actor(action_dim=2, **SIZES),
        modules.make_qvalue(action_dim=2, **SIZES),
        modules.make_value(**SIZES),
    )


def policy_loss(kind="brac_sac", **options):
    if kind == "iql":
        return make_iql_loss(*policy_networks(), gamma=0.9, **options)
    if kind == "bc":
        return make_bc_loss(policy_networks()[0], **options)
    if kind == "td3_bc":
        return make_td3_bc_loss(*policy_networks()[:2], gamma=0.9, **options)
    if kind == "td3_bc_gentle":
        published = {"sampled_actions": True, "judge": "smallest", "reward_scale": 5.0}
        return make_td3_bc_loss(*policy_networks()[:2], gamma=0.9, **published, **options)
    if kind == "sac":
        return make_sac_loss(*policy_networks()[:2], gamma=0.9, **options)
    if kind == "sac_learned":
        options = {"learned_temperature": True, "target_entropy": -2.0} | options
        return make_sac_loss(*policy_networks()[:2], gamma=0.9, **options)
    if kind == "brac_sac_penalty":
        options["behaviour_critic"] = modules.make_qvalue(action_dim=2, out_key="witness", **SIZES)
    return BRACSACLoss(*policy_networks(), **({"gamma": 0.9} | options))


def predictors(**options):
    return (
        modules.make_reward_predictor(action_dim=2, **SIZES, **options),
        modules.make_next_observation_predictor(action_dim=2, **SIZES, **options),
    )


def ctmrl_loss(kind="brac_sac", seed=0, codes=3, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = modules.make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=(8,))
        return CTMRLLoss(encoder, modules.Codebook(codes, 4), *predictors(), policy_loss(kind), **options)
