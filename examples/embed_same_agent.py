"""A custom loop that produces the trainer's agent: your key names and networks, the library's schedules.

python examples/embed_same_agent.py                                  # sizes and updates of preset=quick
python examples/embed_same_agent.py --updates 20 --recipe smoke      # a quick check

With the same seed it draws the same random numbers as examples/train_ctmrl.py. ``embed_loss.py`` is a shorter
version.
"""

from __future__ import annotations

import argparse

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
from ctmrl_torchrl.methods import CodebookSchedule
from ctmrl_torchrl.modules import (
    Codebook,
    Standardise,
    StandardisedMLP,
    make_next_observation_predictor,
    make_reward_predictor,
)
from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss, ParameterGroup
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.training.config import OptimizerConfig, ScheduleConfig
from ctmrl_torchrl.training.schedule import PhaseSchedule

STATE, ACTION, LATENT, CODES = 2, 2, 20, 8
ENCODED = "observation", "action", ("next", "reward")
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
    """Mean over the transitions that are not padding."""
    return (codes * mask.unsqueeze(-1)).sum(-2) / mask.sum(-1, keepdim=True).clamp_min(1)


def make_loss(statistics):
    """Every part is a custom TensorDict module; the predictors come from the library."""
    seen = [("demos", "state"), ("demos", "command"), ("demos", "next", "reward")]
    scale = [torch.cat(parts) for parts in zip(*(statistics[key] for key in ENCODED), strict=True)]
    fine_state = statistics["observation"][0], statistics["observation"][1] / 2
    layers = nn.Sequential(Standardise(*scale), StandardisedMLP(5, LATENT, [128, 128, 128]), nn.Tanh())
    encoder = TensorDictSequential(
        TensorDictModule(lambda *parts: torch.cat(parts, -1), seen, [("demos", "features")]),
        TensorDictModule(layers, [("demos", "features")], [("demos", "codes")]),
        TensorDictModule(masked_mean, [("demos", "codes"), ("demos", "mask")], ["belief"]),
    )
    short, long = ["state", "belief"], ["state", "command", "belief"]
    sizes = {"observation_dim": STATE, "action_dim": ACTION, "context_dim": LATENT, "hidden": [128, 128]}
    reward, change = statistics["next", "reward"], statistics["observation_change"]
    codebook = Codebook(CODES, LATENT, in_key="belief")
    reward_guess = make_reward_predictor(**sizes, in_keys=long, target_statistics=reward)
    state_guess = make_next_observation_predictor(**sizes, in_keys=long, change_statistics=change)

    def network(outputs, in_keys, out_key):
        inputs = STATE + LATENT + (ACTION if "command" in in_keys else 0)
        return TensorDictModule(StandardisedMLP(inputs, outputs, [128, 128], fine_state), in_keys, [out_key])

    actor = ProbabilisticTensorDictSequential(
        network(2 * ACTION, short, "raw"),
        TensorDictModule(
            NormalParamExtractor("biased_softplus_0.5", scale_lb=1e-3), ["raw"], ["loc", "scale"]
        ),
        ProbabilisticTensorDictModule(["loc", "scale"], ["command"], distribution_class=TanhNormal),
    )
    critics = network(1, long, "q"), network(1, short, "v")
    policy = BRACSACLoss(actor, *critics, gamma=0.9, entropy_coefficient=0.002)
    policy.set_keys(action="command")
    weights = {"code_weight": 0.1, "contrastive_weight": 0.3}
    units = {"reward_scale": reward[1], "next_observation_scale": change[1]}
    loss = CTMRLLoss(encoder, codebook, reward_guess, state_guess, policy, **weights, **units)
    loss.representation.set_keys(
        prediction="transitions", observation="state", action="command", next_observation=("next", "state")
    )
    loss.set_keys(task_context="belief", task_context_positive="second_belief", **NAMES)
    return loss


def train(loss, buffer, every_task, updates, seed):
    """A custom training loop with the two schedules of the library."""
    groups = (
        ParameterGroup.of(
            "representation", [loss.context_encoder, loss.representation], schedule="representation"
        ),
        ParameterGroup.of("policy", [loss.policy], schedule="policy"),
    )
    optimizer = torch.optim.Adam(
        [{"params": list(group.parameters), "name": group.name} for group in groups], fused=True
    )
    targets = SoftUpdate(loss, tau=0.02)
    schedule = ScheduleConfig(updates=updates, representation_end=0.6, policy_start=0.5)
    rates = OptimizerConfig(3e-3, 1e-3, policy_final=0.05, policy_decay_from=0.7)
    phases = PhaseSchedule(optimizer, groups, loss, rates, schedule)
    codes = CodebookSchedule(loss, every_task.sample, updates=schedule.representation_updates, seed=seed)
    for update in range(updates):
        phases.before_update(update)
        codes.before_update(update)
        buffer.sampler.num_contexts = 1 + loss.needs_positive
        losses = loss(buffer.sample())
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        optimizer.step()
        optimizer.zero_grad()
        if not loss.policy_frozen:
            targets.step()


def meta_test(loss, tasks, repeats=8):
    """Returns on ``tasks`` under protocol np, after each collected episode: ``[tasks * repeats, 21]``."""
    rows = tasks.repeat_interleave(repeats)
    env = TransformedEnv(make_env("point_robot", rows))
    env.append_transform(RenameTransform(["observation"], ["state"], ["action"], ["command"]))
    collector = MetaTestCollector(
        env,
        ActingPolicy(loss.policy),
        loss.context_encoder,
        task_ids=rows,
        horizon=20,
        context_dim=LATENT,
        context_key="belief",
        observation_key="state",
        evidence_key="demos",
    )
    return collector.run(NonPriorProtocol(), seed=1000)["returns"]


def make_buffers(dataset, seed):
    """Meta-batches of 16 tasks to learn from, and of one context of every training task for K-means."""
    generator = torch.Generator().manual_seed(seed)

    def buffer(tasks, transitions, contexts):
        sampler = TaskSampler(
            dataset,
            task_ids=dataset.manifest.train_ids,
            tasks_per_batch=tasks,
            transitions_per_task=transitions,
            context=ContextDraw(trajectories=(2, 10)),
            num_contexts=contexts,
        )
        return dataset.replay_buffer(sampler, generator=generator, transform=renamed)

    return buffer(16, 64, 2), buffer(None, 1, 1)


def main() -> None:
    """Run data collection, training and meta-test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=4500)
    parser.add_argument("--recipe", default="small", help="how the behaviour data are made")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = collect_task_dataset("point_robot", recipe=arguments.recipe)
    torch.manual_seed(arguments.seed)
    loss = make_loss(dataset.statistics(dataset.manifest.train_ids))
    buffers = make_buffers(dataset, arguments.seed)
    torch.manual_seed(arguments.seed)
    train(loss, *buffers, arguments.updates, arguments.seed)
    tasks = torch.tensor(dataset.manifest.test_ids)
    returns = meta_test(loss, tasks).mean(0)
    print(f"np return on {len(tasks)} unseen tasks: {returns[-1]:.2f} (before: {returns[0]:.2f})")


if __name__ == "__main__":
    main()
