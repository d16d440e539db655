"""Use single parts in other projects: the codebook in an autoencoder, the encoder in a collector's policy.

python examples/use_parts.py
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector

from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.modules import Codebook, make_actor, make_context_encoder


def quantising_autoencoder(steps: int = 200) -> float:
    """Learn to reconstruct points on four rays from the direction codes of their latents; return the perplexity.

    The codebook moves its codes towards what is matched to them on every forward pass in training mode, so it
    needs no term in the loss.
    """
    torch.manual_seed(0)
    model = TensorDictSequential(
        TensorDictModule(nn.Linear(2, 3), ["point"], ["latent"]),
        Codebook(4, 3, in_key="latent", index_key="code_index", out_key="code", update_rate=0.2),
        TensorDictModule(nn.Linear(6, 2), ["latent_and_code"], ["rebuilt"]),
    )
    encode, quantise, decode = model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        angle = torch.randint(4, (64,)) * torch.pi / 2
        points = torch.stack([angle.cos(), angle.sin()], -1) * (0.5 + torch.rand(64, 1))
        td = quantise(encode(TensorDict({"point": points}, [64])))
        td["latent_and_code"] = torch.cat([td["latent"], td["code"]], -1)
        loss = (decode(td)["rebuilt"] - points).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return quantise.perplexity().item()


def adaptive_policy_in_a_collector(frames: int = 400) -> TensorDict:
    """One module that encodes a context and acts on it, driven by a TorchRL collector."""
    tasks = torch.arange(4)
    env = make_env("point_robot", tasks)
    encoder = make_context_encoder(
        feature_dims={("context", "observation"): 2, ("context", "next", "reward"): 1}, context_dim=5
    )
    actor = make_actor(observation_dim=2, context_dim=5, action_dim=2)
    # earlier experience of each task: here, twenty random steps
    seen = env.rollout(20, break_when_any_done=False)

    class Remember(nn.Module):
        """Adds the memory to the observation."""

        def forward(self, observation):
            return seen["observation"], seen["next", "reward"]

    memory = TensorDictModule(
        Remember(), ["observation"], [("context", "observation"), ("context", "next", "reward")]
    )
    policy = TensorDictSequential(memory, encoder, actor)
    collector = Collector(
        env, policy, frames_per_batch=frames, total_frames=frames, auto_register_policy_transforms=False
    )
    (batch,) = list(collector)
    collector.shutdown()
    return batch


def main() -> None:
    """Run both examples."""
    print(f"codebook alone: perplexity {quantising_autoencoder():.2f} of 4 codes")
    batch = adaptive_policy_in_a_collector()
    print(
        f"encoder and actor in a collector: {list(batch.shape)}, context {list(batch['task_context'].shape)}"
    )


if __name__ == "__main__":
    main()
