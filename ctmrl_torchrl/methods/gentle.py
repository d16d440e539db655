"""GENTLE (AAAI 2024): a task autoencoder on transitions that the current policy would generate.

- encoder: mean of transition contexts
- representation loss: :class:`~ctmrl_torchrl.objectives.representation.gentle.TaskAutoencoderLoss`
- part: :class:`PseudoContexts`, which first fits an ensemble of models to every training task and then fills
  most of every context with transitions that the models generate
- policy loss as published: ``td3_bc`` with sampled actions and the smallest critic
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.data.buffer import take_rows
from ctmrl_torchrl.data.layout import ID_KEYS
from ctmrl_torchrl.methods.base import REPRESENTATIONS, Facts, RepresentationConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.decoders import make_transition_decoder
from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.outcome_ensembles import TaskModels
from ctmrl_torchrl.modules.pseudo_transitions import (
    mixed_context,
    pseudo_transitions,
    real_and_made_up,
)
from ctmrl_torchrl.modules.standardise import Statistics
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.objectives.representation.gentle import TaskAutoencoderLoss
from ctmrl_torchrl.objectives.stacked_fit import StackedFit, fit_stacked
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import POSITIVE, SHARE_BELOW_ONE, WIDTHS, require, ruled, whole


def outcome_statistics(problem: Problem) -> Statistics:
    """Mean and standard deviation of the targets: the reward and, for varying dynamics, the change.

    Examples:
        >>> one = torch.zeros(1), torch.ones(1)
        >>> statistics = {("next", "reward"): one, "observation_change": (torch.zeros(3), torch.ones(3))}
        >>> outcome_statistics(Problem(3, 2, 0.9, ("next", "reward"), True, statistics))[0].shape
        torch.Size([4])
    """
    keys = [problem.reward_key, *(["observation_change"] if problem.context_next_observation else [])]
    means, deviations = zip(*(problem.statistics[key] for key in keys), strict=True)
    return torch.cat(means), torch.cat(deviations)


class PseudoContexts(Part):
    """Task models, the store of generated transitions, and contexts that use the store.

    Args:
        setting (Setting): the run's components. config (GENTLEConfig): sizes and schedule.

    Attributes:
        models (TaskModels): one ensemble per training task. fitted (bool): whether they are fitted.
        store (TensorDictBase or None): generated transitions ``[training tasks, (1 + others) * store_rows]``.
        checkpoint_epochs (int): epochs of the models' fit between checkpoints.
    """

    name = "pseudo_contexts"
    stackable = False
    checkpoint_epochs: ClassVar[int] = 5

    def __init__(self, setting: Setting, config: GENTLEConfig) -> None:
        self.setting, self.config = setting, config
        problem = setting.problem
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.models = TaskModels(
            len(setting.train_ids),
            config.members,
            observation_dim=problem.observation_dim,
            action_dim=problem.action_dim,
            hidden=config.model_hidden,
            next_observation=problem.context_next_observation,
            observation_statistics=problem.statistics["observation"],
            target_statistics=outcome_statistics(problem),
            generator=self.generator,
        ).to(setting.device)
        self.fitted, self.epochs, self.holdout_error = False, 0, math.nan
        self.store: TensorDictBase | None = None
        self._fit: StackedFit | None = None
        self._interrupted: dict[str, Any] | None = None
        self._train_ids = torch.as_tensor(list(setting.train_ids), device=setting.device)

    def prepare(self, checkpoint: Callable[[], None]) -> None:
        """Fit the models of all tasks to their data in one computation."""
        if self.fitted:
            return
        config = self.config
        inputs, targets, counts = self._data()
        batches = max(1, math.ceil(int((counts * 0.8).max()) / config.model_batch))

        def after_epoch(fit: StackedFit) -> None:
            self._fit, self.epochs = fit, fit.epoch
            if fit.epoch % self.checkpoint_epochs == 0:
                checkpoint()

        fit = fit_stacked(
            self.models.network,
            inputs,
            targets,
            generator=self.generator,
            state=self._interrupted,
            after_epoch=after_epoch,
            counts=counts,
            rate=config.model_rate,
            batch_size=config.model_batch,
            patience=config.model_patience,
            epochs_most=max(1, math.ceil(config.model_steps / batches)),
        )
        self.fitted, self.holdout_error = True, fit.best_error.mean().item()
        self._fit = self._interrupted = None
        checkpoint()

    def _data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and targets of the models ``[tasks, rows, features]``, and the number of rows per task."""
        dataset, device = self.setting.dataset, self.setting.device
        index = dataset.task_index(self.setting.train_ids)
        count, first = dataset.rows.task_row_count[index], dataset.rows.task_row_start[index]
        most = int(count.max())
        # A separate generator, so that an interrupted run samples the same rows again.
        apart = torch.Generator().manual_seed(self.setting.seed)
        luck = torch.rand(len(index), most, generator=apart)
        order = luck.masked_fill_(torch.arange(most) >= count.unsqueeze(-1), 2.0).argsort(-1)
        place = torch.minimum(order[:, : self.config.model_rows], count.unsqueeze(-1) - 1)
        keys = ["observation", "action", self.setting.problem.reward_key, ("next", "observation")]
        rows = take_rows(dataset.transitions.select(*keys), first.unsqueeze(-1) + place).to(device)
        observation, action, reward, following = (rows[key] for key in keys)
        with torch.no_grad():
            inputs = self.models.inputs(observation, action)
            targets = self.models.targets(observation, reward, following)
        return inputs, targets, count.clamp(max=self.config.model_rows)

    def before_update(self, update: int) -> None:
        """Rebuild the store when due."""
        if update % self.config.store_every == 0:
            self.store = self._made_up()

    @torch.no_grad()
    def _made_up(self) -> TensorDictBase:
        """Transitions of the current policy in every training task, as predicted by the models."""
        setting, config = self.setting, self.config
        index = setting.dataset.task_index(setting.train_ids)
        rows = setting.dataset.rows.draw_rows(index, config.store_rows, self.generator)
        real = take_rows(setting.dataset.transitions.exclude(*ID_KEYS), rows).to(setting.device)
        flags = {key: value for key, value in real.items(True, True) if value.dtype == torch.bool}
        keys, loss = setting.loss.tensor_keys, setting.loss
        shown = real.copy().set("mask", torch.ones(real.shape, dtype=torch.bool, device=setting.device))
        tasks = TensorDict({keys.context: shown, keys.task_id: self._train_ids}, real.shape[:1])
        store = pseudo_transitions(
            self.models,
            real["observation"],
            loss.encode(tasks, keys.context),
            self._act,
            others=config.others,
            reward=setting.problem.reward_key,
            generator=self.generator,
        )
        for key, value in flags.items():  # generated transitions never end an episode
            store.set(key, value.new_zeros((*store.shape, *value.shape[2:])))
        return store

    def _act(self, batch: TensorDictBase) -> Tensor:
        """Deterministic actions of the target actor, or of the actor if there is no target."""
        policy: Any = self.setting.loss.policy
        if hasattr(policy, "act"):
            return policy.act(batch, target=True)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return ActingPolicy(policy)(batch).get("action")

    def batch(self, batch: TensorDictBase) -> TensorDictBase:
        """Contexts of the sampled size in which most transitions are generated."""
        key = self.setting.loss.tensor_keys
        context = batch.get(key.context)
        real, made_up = real_and_made_up(context.shape[1], self.config.made_up_share)
        if not made_up:
            return batch
        used = context.get("mask")
        luck = uniform([len(used), real], self.generator, used.device) * used.sum(-1, keepdim=True)
        place = (used.cumsum(-1).unsqueeze(1) > luck.long().unsqueeze(-1)).int().argmax(-1)
        kept = context.exclude("mask")[torch.arange(len(used), device=used.device).unsqueeze(-1), place]
        row = (batch.get(key.task_id).unsqueeze(-1) == self._train_ids).int().argmax(-1)
        mixed = mixed_context(kept, self.store, row, made_up, self.generator)
        return batch.set(key.context, mixed.set("mask", torch.ones_like(used)))

    def summary(self) -> dict[str, Any]:
        """Fit statistics: epochs and mean squared hold-out error in standardized units."""
        return {"task_models": {"epochs": self.epochs, "holdout_error": self.holdout_error}}

    def state_dict(self) -> dict[str, Any]:
        """The models or the state of their fit, the store, and the generator."""
        return {
            "fitted": self.fitted,
            "epochs": self.epochs,
            "holdout_error": self.holdout_error,
            "models": self.models.network.state_dict() if self.fitted else None,
            "fit": None if self._fit is None else self._fit.state_dict(),
            "store": None if self.store is None else self.store.to_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.fitted, self.epochs, self.holdout_error = (
            state[name] for name in ("fitted", "epochs", "holdout_error")
        )
        if self.fitted:
            self.models.network.load_state_dict(state["models"])
        self._interrupted, self.store = state["fit"], None
        if state["store"] is not None:
            store = state["store"]
            self.store = TensorDict(store, store["observation"].shape[:2]).to(self.setting.device)
        self.generator.set_state(state["generator"].cpu())


@REPRESENTATIONS.register("gentle")
@dataclass
class GENTLEConfig(RepresentationConfig):
    """Configuration of :class:`TaskAutoencoderLoss` and :class:`PseudoContexts`.

    Args:
        reconstruction_weight (float): weight of the only term.
        decoder_hidden (list of int): hidden layers of the decoder.
        made_up_share (float): fraction of generated transitions in a context; 0 gives a plain task
            autoencoder without models and store.
        store_every (int): updates between rebuilds of the store.
        store_rows (int): real transitions per task whose states are used for the store.
        others (int): number of other tasks whose states and actions each task's model evaluates.
        members (int), model_hidden (list of int): size of each task's ensemble.
        model_rate (float), model_batch, model_patience (int): settings of its fit; see
            :class:`~ctmrl_torchrl.objectives.stacked_fit.StackedFit`.
        model_steps (int): maximum number of gradient steps of the fit.
        model_rows (int): maximum number of transitions per task for the fit.

    Examples:
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> GENTLEConfig(decoder_hidden=[8]).build(problem, 4).decoder.out_keys
        ['reward_prediction']
    """

    protocol_options: ClassVar[tuple[str, ...]] = ("reward_predictor",)

    name: str = "gentle"
    reconstruction_weight: float = ruled(10.0, POSITIVE)
    decoder_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    made_up_share: float = ruled(0.95, SHARE_BELOW_ONE)
    store_every: int = ruled(400, whole(1))
    store_rows: int = ruled(2560, whole(1), allocates="once")
    others: int = ruled(3, whole(0))
    members: int = ruled(7, whole(1), allocates="once")
    model_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    model_rate: float = ruled(1e-3, POSITIVE)
    model_batch: int = ruled(256, whole(1), allocates="once")
    model_patience: int = ruled(5, whole(1))
    model_steps: int = ruled(200_000, whole(1))
    model_rows: int = ruled(10_000, whole(2), allocates="once")

    def build(self, problem: Problem, context_dim: int) -> TaskAutoencoderLoss:
        """Build the decoder and the loss; errors are in units of the targets' standard deviations."""
        decoder = make_transition_decoder(
            observation_dim=problem.observation_dim,
            action_dim=problem.action_dim,
            context_dim=context_dim,
            hidden=self.decoder_hidden,
            next_observation=problem.context_next_observation,
            observation_statistics=problem.statistics["observation"],
            target_statistics=outcome_statistics(problem),
        )
        loss = TaskAutoencoderLoss(
            decoder,
            weight=self.reconstruction_weight,
            reward_scale=problem.statistics[problem.reward_key][1],
            next_observation_scale=problem.statistics["observation_change"][1],
        )
        loss.set_keys(reward=problem.reward_key)
        return loss

    def parts(self, setting: Setting) -> list[Part]:
        """Models, store and mixed contexts, if any transitions are generated."""
        return [PseudoContexts(setting, self)] if self.made_up_share else []

    def check(self, facts: Facts) -> None:
        """Check that there are enough other tasks for exchanging states."""
        require(
            self.others < facts.training_tasks or not self.made_up_share,
            "representation.others",
            self.others,
            f"at most {facts.training_tasks - 1}, the number of other training tasks",
        )
