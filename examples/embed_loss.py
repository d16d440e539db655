"""CTMRLLoss in a loop of your own: your key names, networks and sizes, and of our trainer only the K-means.

python examples/embed_loss.py                                  # sizes and updates of preset=quick: minutes
python examples/embed_loss.py --updates 20 --recipe smoke      # a look
"""

from __future__ import annotations

import argparse
import math

import torch
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.envs import RenameTransform, TransformedEnv
from torchrl.modules import NormalParamExtractor, TanhNormal
from torchrl.objectives import SoftUpdate

from ctmrl_torchrl.collectors import MetaTestCollector, NonPriorProtocol
from ctmrl_torchrl.data import ContextDraw, TaskSampler, collect_task_dataset
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.modules import Codebook, Standardise, StandardisedMLP
from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.training.schedule import cosine_kmeans

STATE, ACTION, LATENT, CODES = 2, 2, 20, 8
NAMES = {"context": "demos", "context_positive": "more_demos", "transitions": "batch"}


def renamed(meta_batch):
    """A meta-batch under a user's names: demos and batches of states and commands."""
    for old, new in NAMES.items():
        if meta_batch.get(old, None) is not None:
            part = meta_batch.rename_key_(old, new)[new]
            part.rename_key_("observation", "state").rename_key_("action", "command")
            part.rename_key_(("next", "observation"), ("next", "state"))
    return meta_batch


def masked_mean(codes, mask):
    """Mean over the transitions that are no padding."""
    return (codes * mask.unsqueeze(-1)).sum(-2) / mask.sum(-1, keepdim=True).clamp_min(1)


def make_loss(statistics):
    """Every part is a plain TensorDict module of the user's own."""
    seen = [("demos", "state"), ("demos", "command"), ("demos", "next", "reward")]
    scale = [torch.cat(parts) for parts in zip(*statistics.values(), strict=True)]
    fine_state = statistics["observation"][0], statistics["observation"][1] / 2
    layers = nn.Sequential(Standardise(*scale), StandardisedMLP(5, LATENT, [128, 128, 128]), nn.Tanh())
    encoder = TensorDictSequential(
        TensorDictModule(lambda *parts: torch.cat(parts, -1), seen, [("demos", "features")]),
        TensorDictModule(layers, [("demos", "features")], [("demos", "codes")]),
        TensorDictModule(masked_mean, [("demos", "codes"), ("demos", "mask")], ["belief"]),
    )

    def network(outputs, in_keys, out_key, state_scale=None):
        inputs = STATE + LATENT + (ACTION if "command" in in_keys else 0)
        mlp = StandardisedMLP(inputs, outputs, [128, 128], state_scale)
        return TensorDictModule(mlp, in_keys, [out_key])

    short, long = ["state", "belief"], ["state", "command", "belief"]
    actor = ProbabilisticTensorDictSequential(
        network(2 * ACTION, short, "raw", fine_state),
        TensorDictModule(NormalParamExtractor(), ["raw"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(["loc", "scale"], ["command"], distribution_class=TanhNormal),
    )
    critics = network(1, long, "q", fine_state), network(1, short, "v", fine_state)
    policy = BRACSACLoss(actor, *critics, gamma=0.9, entropy_coefficient=0.002)
    policy.set_keys(action="command")
    predictors = network(1, long, "reward_guess"), network(STATE, long, "state_guess")
    codebook = Codebook(CODES, LATENT, in_key="belief")
    loss = CTMRLLoss(encoder, codebook, *predictors, policy, code_weight=0.1, contrastive_weight=0.3)
    loss.representation.set_keys(
        prediction="transitions", observation="state", action="command", next_observation=("next", "state")
    )
    loss.set_keys(task_context="belief", task_context_positive="second_belief", **NAMES)
    return loss


def train(loss, buffer, updates):
    """The encoder for a bit more than half of the updates, the policy from there on."""
    representation = [*loss.context_encoder.parameters(), *loss.representation.parameters()]
    optimiser = torch.optim.Adam(
        [{"params": representation}, {"params": loss.policy.parameters()}], lr=1e-3, fused=True
    )
    targets, encoder_end = SoftUpdate(loss, tau=0.02), int(0.55 * updates)
    kmeans_at = int(0.3 * encoder_end)
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = 1.5e-3 * (1 + math.cos(math.pi * min(update / encoder_end, 1)))
        optimiser.param_groups[1]["lr"] = 1e-3 * min(1, 0.05 + 3.2 * (1 - update / updates))
        loss.policy_frozen, loss.representation_frozen = update < encoder_end, update >= encoder_end
        loss.representation.warm_up = update < kmeans_at
        if update == kmeans_at:
            with torch.no_grad():
                contexts = torch.cat([loss.encode(buffer.sample(), "demos") for _ in range(10)])
            loss.representation.codebook.initialise_(cosine_kmeans(contexts, CODES))
        losses = loss(buffer.sample())
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        optimiser.step()
        optimiser.zero_grad()
        if not loss.policy_frozen:
            targets.step()


def meta_test(loss, tasks):
    """Returns on ``tasks`` under protocol np, after each collected episode: ``[tasks, 20]``."""
    env = TransformedEnv(make_env("point_robot", tasks))
    env.append_transform(RenameTransform(["observation"], ["state"], ["action"], ["command"]))
    collector = MetaTestCollector(
        env,
        ActingPolicy(loss.policy),
        loss.context_encoder,
        task_ids=tasks,
        horizon=20,
        context_dim=LATENT,
        context_key="belief",
        observation_key="state",
        evidence_key="demos",
    )
    return collector.run(NonPriorProtocol(), seed=0)["returns"]


def main() -> None:
    """Data, training, meta-test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=4500)
    parser.add_argument("--recipe", default="small", help="how the behaviour data are made")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = collect_task_dataset("point_robot", recipe=arguments.recipe)
    train_ids, test_ids = dataset.manifest.train_ids, torch.tensor(dataset.manifest.test_ids)
    sampler = TaskSampler(
        dataset,
        task_ids=train_ids,
        tasks_per_batch=16,
        transitions_per_task=64,
        context=ContextDraw(trajectories=(2, 10)),
        num_contexts=2,
    )
    buffer = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0), transform=renamed)
    statistics = dataset.statistics(train_ids)
    loss = make_loss({key: statistics[key] for key in ("observation", "action", ("next", "reward"))})
    train(loss, buffer, arguments.updates)
    returns = meta_test(loss, test_ids).mean(0)
    print(f"np return on {len(test_ids)} unseen tasks: {returns[-1]:.2f} (before: {returns[0]:.2f})")


if __name__ == "__main__":
    main()
