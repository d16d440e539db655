"""SAC behavior policies for all tasks at once: the shared base class and independent agents per task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import nn
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

from ctmrl_torchrl.data.behaviour.agents import BehaviourAgents, isolated_rng, register_agents, task_rows
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.data.behaviour.sac_training import SACTraining
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.typed import sequential


class SACAgents(BehaviourAgents):
    """Behavior policies of all tasks of a set, trained with SAC as one computation.

    One :class:`~torchrl.objectives.SACLoss` reads batches of shape ``[batch, num_tasks]``. A subclass defines the
    networks and the keys that provide the task.

    Args:
        num_tasks: number of training tasks.
        observation_dim: size of an observation.
        action_dim: size of an action; actions lie in [-1, 1].
        recipe: network and optimizer settings.
        discount: used if the recipe does not set it.
        seed: seed of the initial weights.
        task_ids: the training tasks; None means ``0 .. num_tasks - 1``.
        device: device of the parameters.

    Keys read by :meth:`update`, batch ``[batch, num_tasks]``: ``observation``, ``action``, ``("next",
    "observation" | "reward" | "done" | "terminated")``, and :attr:`task_keys`, also under ``"next"``. Only
    ``terminated`` stops bootstrapping.
    """

    algorithm = "sac"
    #: inputs of the networks besides observation and action
    task_keys: tuple[str, ...] = ()

    def __init__(
        self,
        num_tasks: int,
        observation_dim: int,
        action_dim: int,
        recipe: CollectionRecipe,
        *,
        discount: float,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_tasks = num_tasks
        self.task_ids = tuple(range(num_tasks) if task_ids is None else task_ids)
        self.device = torch.device(device)
        with isolated_rng(seed, self.device):
            actor_net = self._network(observation_dim, 2 * action_dim, recipe)
            critic_net = self._network(observation_dim + action_dim, 1, recipe)
            self.actor = ProbabilisticActor(
                sequential(
                    TensorDictModule(
                        actor_net, cast("list[NestedKey]", self._inputs("observation")), ["parameters"]
                    ),
                    TensorDictModule(NormalParamExtractor(), ["parameters"], ["loc", "scale"]),
                ),
                in_keys=["loc", "scale"],
                distribution_class=TanhNormal,
                return_log_prob=True,
            )
            self.loss = SACLoss(
                self.actor,
                ValueOperator(critic_net, in_keys=self._inputs("observation", "action")),
                num_qvalue_nets=2,
                loss_function="l2",
                alpha_init=recipe.entropy_coefficient,
                fixed_alpha=not recipe.learn_entropy,
                target_entropy=-float(action_dim),
            )
        self.loss.make_value_estimator(gamma=discount if recipe.discount is None else recipe.discount)
        self.target_updater = SoftUpdate(self.loss, tau=recipe.target_rate)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.loss.parameters() if parameter.requires_grad],
            lr=recipe.learning_rate,
            fused=True,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.learning_rate_scale)

    @abstractmethod
    def _network(self, in_features: int, out_features: int, recipe: CollectionRecipe) -> nn.Module:
        """Build a network for the inputs of :meth:`_inputs`."""

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
        """See :class:`SACTraining`."""
        env = task_rows(tasks, self.task_ids, recipe.rows_per_task, device=self.device, seed=seed)
        training = SACTraining(
            env,
            self,
            recipe,
            horizon=tasks.family.horizon,
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
            identity=identity,
        )
        snapshots = training.run()
        env.close()
        return snapshots

    def _inputs(self, *names: str) -> list[str]:
        return [*names, *self.task_keys]

    def objective(self, batch: TensorDictBase) -> TensorDictBase:
        """SAC's losses on ``batch`` ``[batch, num_tasks]``, summed over tasks and averaged over the batch."""
        losses = self.loss(batch)
        total = (losses["loss_actor"] + losses["loss_qvalue"]) * self.num_tasks
        if not self.loss.fixed_alpha:
            total = total + losses["loss_alpha"]
        return losses.set("total", total)

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Make one gradient step of every agent and return the detached losses."""
        losses = self.objective(batch)
        losses["total"].backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.target_updater.step()
        return losses.detach()

    def state_dict(self) -> dict[str, Any]:
        """The training state as tensors and plain values."""
        parts = {"loss": self.loss, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


class BatchedSAC(SACAgents):
    """One independent SAC agent per task with stacked parameters, without a loop over tasks.

    :class:`~torchrl.modules.MultiAgentMLP` without parameter sharing holds the tasks in its agent dimension.
    The loss is summed over tasks, so each agent gets the same gradient as a single agent. Arguments and keys are
    those of :class:`SACAgents`; the leaves of a snapshot are ``[num_tasks, ...]``.

    Raises:
        ValueError: if the recipe has a learned entropy coefficient, which the agents would share.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=1, hidden_sizes=(8,))
        >>> agents = BatchedSAC(3, observation_dim=2, action_dim=2, recipe=recipe, discount=0.9, seed=0)
        >>> data = TensorDict({"observation": torch.zeros(5, 3, 2)}, [5, 3])
        >>> agents.actor(data)["action"].shape
        torch.Size([5, 3, 2])
    """

    @classmethod
    def for_tasks(
        cls,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> BatchedSAC:
        """Create one agent per training task."""
        family = tasks.family
        task_ids = range(tasks.n_tasks) if task_ids is None else task_ids
        sizes = len(task_ids), family.observation_dim, family.action_dim
        options = {"seed": seed, "task_ids": task_ids, "device": device}
        return cls(*sizes, recipe, discount=family.discount, **options)

    def _network(self, in_features: int, out_features: int, recipe: CollectionRecipe) -> MultiAgentMLP:
        if recipe.learn_entropy:
            raise ValueError(
                "learn_entropy needs agents='conditioned': independent agents would share one coefficient."
            )
        return MultiAgentMLP(
            in_features,
            out_features,
            self.num_tasks,
            centralized=False,
            share_params=False,
            num_cells=list(recipe.hidden_sizes),
            activation_class=nn.ReLU,
            device=self.device,
        )

    def policy(self) -> TaskRows:
        """The current stochastic actors as a policy for a flat batch of environment rows."""
        return TaskRows(self.actor, self.num_tasks)


class TaskRows(TensorDictModuleBase):
    """Lets stacked actors act on flat environment rows ordered ``[repeat, task]`` (task runs fastest).

    Args:
        actor: reads ``observation`` ``[repeats, num_tasks, *]`` and writes ``action``.
        num_tasks: number of stacked actors; the number of rows must be a multiple of it.
    """

    def __init__(self, actor: TensorDictModuleBase, num_tasks: int) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self.actor, self.num_tasks = actor, num_tasks

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` for every row."""
        rows = tensordict.select("observation").reshape(-1, self.num_tasks)
        return tensordict.set("action", self.actor(rows)["action"].reshape(*tensordict.batch_size, -1))


register_agents("per_task", BatchedSAC)
