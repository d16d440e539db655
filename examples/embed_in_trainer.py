"""CTMRLLoss in TorchRL's own Trainer, offline: one "frame" is one gradient step.

python examples/embed_in_trainer.py --steps 200
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate
from torchrl.record import CSVLogger
from torchrl.trainers import OptimizationStepper, TargetNetUpdaterHook, Trainer

from ctmrl_torchrl import modules
from ctmrl_torchrl.data import ContextDraw, TaskSampler, collect_task_dataset
from ctmrl_torchrl.objectives import BRACSACLoss, CTMRLLoss


class Ticks:
    """Replaces the Trainer's collector: offline training collects no data, it only counts steps."""

    init_random_frames = 0

    def __init__(self, steps: int) -> None:
        self.tick = TensorDict({}, [steps])

    def __iter__(self):
        """Yield one batch of ticks per iteration."""
        while True:
            yield self.tick

    def set_seed(self, seed: int, static_seed: bool = False) -> int:
        """Set the global seed."""
        torch.manual_seed(seed)
        return seed

    def update_policy_weights_(self, *args, **kwargs) -> None:
        """Do nothing, because the policy has no other copy."""

    def shutdown(self, *args, **kwargs) -> None:
        """Do nothing, because there are no workers."""

    def state_dict(self) -> dict:
        """Do nothing, because there is no state."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Do nothing, because there is no state."""


class SumOfLosses(OptimizationStepper):
    """One backward pass through the sum of the terms."""

    def step(self, trainer: Trainer, sub_batch: TensorDict) -> TensorDict:
        """One gradient step."""
        losses = trainer.compute_loss(sub_batch)
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        return losses.detach()


def make_loss() -> CTMRLLoss:
    """Small networks of the library."""
    sizes = {"observation_dim": 2, "context_dim": 20, "hidden": (64, 64)}
    features = {("context", "observation"): 2, ("context", "action"): 2, ("context", "next", "reward"): 1}
    return CTMRLLoss(
        modules.make_context_encoder(feature_dims=features, hidden=(64, 64)),
        modules.Codebook(8, 20),
        modules.make_reward_predictor(action_dim=2, **sizes),
        modules.make_next_observation_predictor(action_dim=2, **sizes),
        BRACSACLoss(
            modules.make_actor(action_dim=2, **sizes),
            modules.make_qvalue(action_dim=2, **sizes),
            modules.make_value(**sizes),
            gamma=0.9,
        ),
    )


def main() -> None:
    """Build the parts and pass them to the Trainer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    dataset = collect_task_dataset("point_robot", recipe="smoke")
    sampler = TaskSampler(
        dataset,
        task_ids=dataset.manifest.train_ids,
        tasks_per_batch=16,
        transitions_per_task=64,
        context=ContextDraw(trajectories=(2, 6)),
        num_contexts=2,
    )
    buffer = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0))
    loss = make_loss()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            collector=Ticks(10),
            total_frames=steps,
            frame_skip=1,
            optim_steps_per_batch=10,
            loss_module=loss,
            optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
            optimization_stepper=SumOfLosses(),
            logger=CSVLogger("embedded", log_dir=folder),
            log_interval=10,
            progress_bar=False,
            seed=0,
        )
        trainer.register_op("process_optim_batch", lambda _: buffer.sample())
        trainer.register_op("post_optim", TargetNetUpdaterHook(SoftUpdate(loss, tau=0.02)))
        trainer.train()
    with torch.no_grad():
        losses = loss(buffer.sample())
    for name, value in losses.items():
        print(f"{name:22} {value.item():8.4f}")


if __name__ == "__main__":
    main()
