"""CTMRLLoss in a plain TorchRL loop: your modules, your key names, your sizes.

python examples/embed_loss.py                                  # half a minute
python examples/embed_loss.py --updates 20 --recipe smoke      # a quick check

It shows how the parts fit together, but learns little in this time. ``embed_same_agent.py`` adds the schedules
and scales that make a custom loop produce the trainer's agent.
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal
from torchrl.objectives import SoftUpdate

from ctmrl_torchrl.data import ContextDraw, TaskSampler, collect_task_dataset
from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.methods import cosine_kmeans
from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss

STATE, ACTION, LATENT, CODES = 2, 2, 12, 6
SEEN = [("demos", "state"), ("demos", "command"), ("demos", "next", "reward"), ("demos", "mask")]
SHORT, LONG = ["state", "belief"], ["state", "command", "belief"]
CONTEXTS = {"context": "demos", "context_positive": "more_demos", "transitions": "batch"}


def renamed(meta_batch):
    """A meta-batch under a user's names."""
    for old, new in CONTEXTS.items():
        part = meta_batch.rename_key_(old, new)[new]
        part.rename_key_("observation", "state").rename_key_("action", "command")
        part.rename_key_(("next", "observation"), ("next", "state"))
    return meta_batch


class Encoder(nn.Module):
    """Demonstrations ``[T, L]`` of T tasks to their beliefs ``[T, LATENT]``."""

    def __init__(self):
        super().__init__()
        self.layers = MLP(STATE + ACTION + 1, LATENT, num_cells=[64, 64])

    def forward(self, state, command, reward, mask):
        """Mean over the transitions that are not padding."""
        used = mask.unsqueeze(-1)
        return (self.layers(state, command, reward).tanh() * used).sum(-2) / used.sum(-2).clamp_min(1)


def network(in_keys, out_key, size):
    """TorchRL's MLP concatenates its inputs."""
    inputs = LATENT + STATE + (ACTION if "command" in in_keys else 0)
    return TensorDictModule(MLP(inputs, size, num_cells=[64, 64]), in_keys, [out_key])


def make_loss():
    """Build the loss from custom modules, the codebook and the two losses."""
    heads = TensorDictModule(NormalParamExtractor(), ["raw"], ["loc", "scale"])
    actor = ProbabilisticActor(
        TensorDictSequential(network(SHORT, "raw", 2 * ACTION), heads),
        in_keys=["loc", "scale"],
        out_keys=["command"],
        distribution_class=TanhNormal,
    )
    policy = BRACSACLoss(actor, network(LONG, "q", 1), network(SHORT, "v", 1), gamma=0.9)
    policy.set_keys(action="command")
    loss = CTMRLLoss(
        TensorDictModule(Encoder(), SEEN, ["belief"]),
        Codebook(CODES, LATENT, in_key="belief"),
        network(LONG, "reward_guess", 1),
        network(LONG, "state_guess", STATE),
        policy,
        code_weight=0.03,  # small, so that contexts do not collapse to one code
        contrastive_weight=0.3,
    )
    loss.representation.set_keys(observation="state", action="command", next_observation=("next", "state"))
    loss.set_keys(task_context="belief", task_context_positive="other_belief", **CONTEXTS)
    return loss


def main() -> None:
    """Run data collection, replay buffer and training loop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--recipe", default="smoke", help="how the behaviour data are made")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with told_plainly():
        dataset = collect_task_dataset("point_robot", recipe=arguments.recipe)
    sampler = TaskSampler(
        dataset,
        task_ids=dataset.manifest.train_ids,
        tasks_per_batch=16,
        transitions_per_task=64,
        context=ContextDraw(trajectories=(1, 5)),
    )
    buffer = dataset.replay_buffer(sampler, transform=renamed)
    loss = make_loss()
    optimizer, targets = torch.optim.Adam(loss.parameters(), 1e-3), SoftUpdate(loss, tau=0.01)
    warm_up = arguments.updates // 2
    for update in range(arguments.updates):
        # Codes initialized away from the contexts collapse to one code: warm up without codes, then use K-means.
        loss.representation.warm_up = update < warm_up
        if update == warm_up:
            contexts = torch.cat([loss.encode(buffer.sample(), "demos").detach() for _ in range(10)])
            loss.representation.codebook.initialise_(cosine_kmeans(contexts, CODES))
        losses = loss(buffer.sample())
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        optimizer.step()
        optimizer.zero_grad()
        targets.step()
        if update % 100 == 0 or update == arguments.updates - 1:
            print(update, *(f"{name} {value.item():.3f}" for name, value in losses.items()))


if __name__ == "__main__":
    main()
