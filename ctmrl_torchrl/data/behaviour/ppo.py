"""One task-conditioned PPO agent for all tasks of a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from ctmrl_torchrl.data.behaviour.agents import BehaviourAgents, isolated_rng, register_agents
from ctmrl_torchrl.data.behaviour.ppo_networks import GaussianNetwork, ToldFeatures, tanh_network
from ctmrl_torchrl.data.behaviour.ppo_settings import PPOSettings
from ctmrl_torchrl.data.behaviour.ppo_training import PPOTraining
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.typed import sequential


class PPOAgents(BehaviourAgents):
    """One PPO agent for all tasks, conditioned on their true parameters.

    TorchRL's :class:`~torchrl.objectives.ClipPPOLoss` and :class:`~torchrl.objectives.value.GAE` train a
    Gaussian policy of the *unsquashed* action ``latent``; the environment receives its tanh, whose
    Jacobian cancels in the probability ratio. Parameters without effect (``EnvFamily.inert_parameters``) are
    not part of the input.

    Args:
        task_parameters: ``[tasks, k]``, standardized.
        observation_dim: size of an observation.
        action_dim: size of an action; actions lie in [-1, 1].
        recipe: its ``settings`` are :class:`PPOSettings`.
        discount: used if the recipe does not set it.
        seed: seed of the initial weights.
        task_ids: the training tasks; None means all tasks.
        device: device of the parameters.

    Keys read by :meth:`losses`, batch ``[n]``: ``features``, ``latent``, ``latent_log_prob``, ``advantage``,
    ``value_target``.

    Examples:
        >>> recipe = CollectionRecipe((100,), 1, hidden_sizes=(8,), agents="ppo")
        >>> agents = PPOAgents(torch.randn(3, 1), 2, 2, recipe, discount=0.9, seed=0)
        >>> rows = {"observation": torch.zeros(6, 2), "task_id": torch.arange(3).repeat(2)}
        >>> agents.policy()(TensorDict(rows, [6]))["action"].shape
        torch.Size([6, 2])
    """

    algorithm = "ppo"
    told_parameters = True
    settings_class = PPOSettings
    unread_fields = frozenset(
        {
            "batch_size",
            "entropy_coefficient",
            "target_rate",
            "random_episodes",
            "explore",
            "gradient_steps_per_episode",
            "replay_capacity",
            "learn_entropy",
        }
    )

    def __init__(
        self,
        task_parameters: Tensor,
        observation_dim: int,
        action_dim: int,
        recipe: CollectionRecipe,
        *,
        discount: float,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.settings: PPOSettings = recipe.settings or PPOSettings()
        self.task_ids = tuple(range(len(task_parameters)) if task_ids is None else task_ids)
        self.discount = discount if recipe.discount is None else recipe.discount
        told = task_parameters.float()
        sizes = (observation_dim + told.shape[1], *recipe.hidden_sizes)
        with isolated_rng(seed, self.device):
            self.features = ToldFeatures(told, observation_dim, self.settings.observation_clip)
            self.network = GaussianNetwork((*sizes, action_dim), told.shape[1], self.settings.deviation)
            value_network = tanh_network((*sizes, 1))
        self.latent_actor = ProbabilisticActor(
            TensorDictModule(self.network, ["features"], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            out_keys=["latent"],
            distribution_class=IndependentNormal,
        )
        self.actor = sequential(
            TensorDictModule(self.features, ["observation", "task_id"], ["features"]),
            self.latent_actor,
            TensorDictModule(nn.Tanh(), ["latent"], ["action"]),
        ).to(self.device)
        self.critic = ValueOperator(value_network, in_keys=["features"]).to(self.device)
        self.loss = ClipPPOLoss(
            self.latent_actor,
            self.critic,
            clip_epsilon=self.settings.clip,
            entropy_coeff=self.settings.entropy_coefficient,
            critic_coeff=0.5,
            loss_critic_type="l2",
        )
        self.loss.set_keys(action="latent", sample_log_prob="latent_log_prob")
        self.advantage = GAE(
            gamma=self.discount,
            lmbda=self.settings.trace_decay,
            value_network=self.critic,
            skip_existing=True,
            vectorized=False,
        )
        self.rate = recipe.learning_rate
        self.optimizer = torch.optim.Adam(list(self.loss.parameters()), lr=self.rate, fused=True)

    @classmethod
    def for_tasks(
        cls,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> PPOAgents:
        """Create the agent of a task set, with parameters standardized over the training tasks."""
        family = tasks.family
        told = [name not in family.inert_parameters for name in tasks.parameter_names]
        return cls(
            tasks.standardized_parameters()[:, told],
            family.observation_dim,
            family.action_dim,
            recipe,
            discount=family.discount,
            seed=seed,
            task_ids=task_ids,
            device=device,
        )

    def policy(self) -> TensorDictModuleBase:
        """The current stochastic policy; rows contain their task id."""
        return self.actor

    def train(
        self,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        progress: bool = False,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> list[TensorDict]:
        """See :class:`PPOTraining`."""
        training = PPOTraining(
            tasks, self, recipe, seed=seed, progress=progress, checkpoint=checkpoint, identity=identity
        )
        return training.run()

    @torch.no_grad()
    def evaluate(self, played: TensorDictBase) -> TensorDict:
        """Prepare the update data from steps ``[rows, time]`` of the current policy.

        Rewards are multiplied by one minus the discount, so that values have the scale of a reward. With a
        discount of 1, they stay as they are.

        Args:
            played: ``features``, ``latent``, ``task_id``, ``("next", "observation" | "reward" | "done" |
                "terminated")`` and, optionally, ``("next", "unstable")``. A truncated episode bootstraps from
                its last observation, a terminated one does not. Unstable steps are excluded.

        Returns:
            Flat steps with the keys of :meth:`losses`; the advantages are standardized.
        """
        following: Any = played["next"]
        values = self.critic.module(played["features"])
        ends = following["done"].squeeze(-1).clone()
        ends[:, -1] = True  # elsewhere, the next value is that of the next step
        last = self.features(following["observation"][ends], played["task_id"][ends])
        next_values = torch.cat([values[:, 1:], values[:, -1:]], 1)
        next_values[ends] = self.critic.module(last)
        steps = TensorDict(
            {
                "state_value": values,
                "next": {
                    "state_value": next_values,
                    "reward": following["reward"] * (1.0 - self.discount or 1.0),
                    "done": following["done"],
                    "terminated": following["terminated"],
                },
            },
            played.batch_size,
        )
        self.advantage(steps)
        distribution = IndependentNormal(*self.network(played["features"]))
        flat: Any = TensorDict(
            {
                "features": played["features"],
                "latent": played["latent"],
                "latent_log_prob": distribution.log_prob(played["latent"]),
                "advantage": steps["advantage"],
                "value_target": steps["value_target"],
            },
            played.batch_size,
        ).flatten()
        unstable = following.get("unstable", None)
        if unstable is not None and unstable.any():
            flat = flat[~unstable.flatten()]
        advantage = flat["advantage"]
        return flat.set("advantage", (advantage - advantage.mean()) / (advantage.std() + 1e-8))

    def losses(self, batch: TensorDictBase, value_variance: Tensor | float) -> TensorDictBase:
        """Compute the losses of a batch, with their sum under ``total``.

        Args:
            batch: steps, see the class.
            value_variance: variance of the value targets, by which the value loss is divided.
        """
        losses = self.loss(batch)
        total = losses["loss_objective"] + losses["loss_critic"] / value_variance + losses["loss_entropy"]
        return losses.set("total", total)

    def update(self, batch: TensorDictBase, value_variance: Tensor | float) -> Tensor:
        """Make one gradient step and return the estimated divergence from the policy that collected the batch."""
        losses = self.losses(batch, value_variance)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(list(self.loss.parameters()), self.settings.gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # the mean of (ratio - 1) - log(ratio): non-negative with low variance
        return losses["mean_ratio"] - 1.0 + losses["kl_approx"]

    def state_dict(self) -> dict[str, Any]:
        """The training state as tensors and plain values."""
        parts = {"loss": self.loss, "features": self.features, "optimizer": self.optimizer}
        return {"rate": self.rate} | {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""
        self.rate = state["rate"]
        for name in ("loss", "features", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


register_agents("ppo", PPOAgents)
