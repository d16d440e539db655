"""Meta-tests an agent on the training and test tasks of its environment under several protocols."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase, set_interaction_type
from torch import Tensor
from tqdm import tqdm

from ctmrl_torchrl.collectors import (
    PROTOCOLS,
    AdaptationProtocol,
    MetaTestCollector,
    ProtocolSettings,
)
from ctmrl_torchrl.data import TaskDataset, draw_episode
from ctmrl_torchrl.envs import TaskSet, make_env
from ctmrl_torchrl.evaluation.context_noise import context_noise_ratio
from ctmrl_torchrl.evaluation.statistics import bootstrap_interval
from ctmrl_torchrl.methods import Parts, cosine_kmeans
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.rules import require
from ctmrl_torchrl.training.config import EvaluationConfig
from ctmrl_torchrl.training.fragments import stored_fragments


class Candidates:
    """The contexts that protocols try: those of the method, or otherwise those of the training data.

    Args:
        parts (Parts): parts of the method, which may define candidates.
        loss (MetaLoss): encodes the training tasks' contexts.
        draw_contexts (callable): returns a meta-batch with one context of every training task.
        generator (torch.Generator): generator of ``draw_contexts``. It is reseeded for each meta-test, so that
            the result depends only on the agent.
        config (EvaluationConfig): number of candidates and seed.
    """

    def __init__(
        self,
        parts: Parts,
        loss: MetaLoss,
        draw_contexts: Callable[[], TensorDictBase],
        generator: torch.Generator,
        config: EvaluationConfig,
    ) -> None:
        self._parts = parts
        self._loss = loss
        self._draw_contexts = draw_contexts
        self._generator = generator
        self._config = config

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The candidates ``[N, d]`` of the current agent."""
        own = self._parts.candidates()
        if own is not None:
            return own
        contexts = self.of_training_tasks()
        number = min(self._config.candidates, contexts.shape[0])
        return cosine_kmeans(contexts, number, seed=self._config.seed)

    @torch.no_grad()
    def of_training_tasks(self) -> Tensor:
        """One context per training task ``[tasks, d]``, encoded by the current agent; the mean of a noisy one."""
        self._generator.manual_seed(self._config.seed)
        with set_interaction_type(InteractionType.DETERMINISTIC):
            return self._loss.encode(self._draw_contexts(), self._loss.tensor_keys.context)

    def options(self) -> dict[str, Any]:
        """Other options for protocols by name: the reward predictor and options of the method's parts."""
        predictor = self._loss.representation.reward_predictor
        known = {} if predictor is None else {"reward_predictor": predictor}
        return known | self._parts.protocol_options()


def protocol_settings(
    config: EvaluationConfig,
    *,
    num_candidates: int | None = None,
    candidates: Callable[[], Tensor] | None = None,
    training_contexts: Callable[[], Tensor] | None = None,
    encodes_unseen_tasks: bool = True,
    options: Mapping[str, Any] | None = None,
) -> ProtocolSettings:
    """Collects the inputs for building protocols.

    ``num_candidates`` is the method's number of candidates, ``encodes_unseen_tasks`` a property of its encoder;
    ``options`` come from its parts.
    """
    return ProtocolSettings(
        episodes=config.episodes,
        random_episodes=config.random_episodes,
        prior_episodes=config.prior_episodes,
        reference_episodes=config.reference_episodes,
        candidate_draws=config.candidate_draws,
        judge=config.judge,
        training_contexts=training_contexts,
        candidates=candidates,
        num_candidates=config.candidates if num_candidates is None else num_candidates,
        queries=config.queries,
        oracle_error=config.oracle_error,
        encodes_unseen_tasks=encodes_unseen_tasks,
        options=options or {},
    )


class MetaTester:
    """Runs protocols on task splits and summarizes the results as plain numbers.

    Args:
        task_set (TaskSet): tasks and splits.
        dataset (TaskDataset): for the ``offline`` protocol.
        actor, context_encoder (TensorDictModule): networks of the agent.

    Keyword Args:
        context_dim (int): latent size.
        encodes_unseen_tasks (bool): whether the encoder can encode episodes of unseen tasks.
        candidates (callable): ``() -> [N, d]``, contexts to try under protocol ``codes``.
        training_contexts (callable, optional): ``() -> [tasks, d]``, contexts of the training tasks.
        options (callable, optional): returns protocol options from the method's parts, by name.
        config (EvaluationConfig): budgets and protocols.
        device (torch.device): device of the environments.
    """

    def __init__(
        self,
        task_set: TaskSet,
        dataset: TaskDataset,
        actor: TensorDictModuleBase,
        context_encoder: TensorDictModuleBase,
        *,
        context_dim: int,
        encodes_unseen_tasks: bool = True,
        candidates: Callable[[], Tensor],
        training_contexts: Callable[[], Tensor] | None = None,
        options: Callable[[], Mapping[str, Any]] = dict,
        config: EvaluationConfig,
        device: torch.device,
    ) -> None:
        _check_offline_data(task_set, dataset, config.protocols)
        self.task_set = task_set
        self.dataset = dataset
        self.actor = actor
        self.context_encoder = context_encoder
        self.context_dim = context_dim
        self.encodes_unseen_tasks = encodes_unseen_tasks
        self.candidates = candidates
        self.training_contexts = training_contexts
        self.options = options
        self.config = config
        self.device = device
        self._fragments = stored_fragments(dataset, task_set, device)
        self._collectors: dict[tuple[tuple[int, ...], int], MetaTestCollector] = {}

    def collector(self, task_ids: Sequence[int], repeats: int) -> MetaTestCollector:
        """The collector of these tasks, each ``repeats`` times; created on first use."""
        key = tuple(task_ids), repeats
        if key not in self._collectors:
            rows = torch.tensor(task_ids).repeat_interleave(repeats)
            family = self.task_set.family
            self._collectors[key] = MetaTestCollector(
                partial(_make_rows, family.name, self.task_set, self.device),
                self.actor,
                self.context_encoder,
                task_ids=rows,
                horizon=family.horizon,
                context_dim=self.context_dim,
                return_key=family.return_key,
                offline_draw=self._draw_offline,
                collector=self.config.collector,
            )
        return self._collectors[key]

    def close(self) -> None:
        """Close environments and stop workers."""
        for collector in self._collectors.values():
            collector.close()
        self._collectors.clear()

    def protocols(self) -> list[AdaptationProtocol]:
        """The configured protocols."""
        stored = {} if self._fragments is None else {"fragments": self._fragments}
        settings = protocol_settings(
            self.config,
            candidates=self.candidates,
            training_contexts=self.training_contexts,
            encodes_unseen_tasks=self.encodes_unseen_tasks,
            options=stored | dict(self.options()),
        )
        return [PROTOCOLS.get(name).from_settings(settings) for name in self.config.protocols]

    def _draw_offline(self, task_ids: Tensor, generator: torch.Generator) -> TensorDict:
        """One complete trajectory per row, from a random snapshot of the task's data."""
        return draw_episode(self.dataset, task_ids, generator).to(self.device)

    def run(
        self, task_ids: Sequence[int], repeats: int, seed: int, bar: tqdm | None = None
    ) -> dict[str, TensorDict]:
        """Run every protocol on the given tasks: ``{protocol: TensorDict [tasks, repeats]}``, on the CPU.

        ``bar`` is advanced by one after each protocol.
        """
        if not self.config.protocols:
            return {}
        collector = self.collector(task_ids, repeats)
        runs = {}
        for protocol in self.protocols():
            runs[protocol.name] = collector.run(protocol, seed=seed).cpu().reshape(len(task_ids), repeats)
            if bar is not None:
                bar.update()
        return runs

    def quick_numbers(self, seed: int) -> dict[str, float]:
        """Flat numbers for the metrics log by split and protocol: final returns and context noise."""
        groups = {"test": "context_noise", "train": "context_noise_train"}
        values = {}
        for split, task_ids in (("test", self.task_set.test_ids), ("train", self.task_set.train_ids)):
            for name, run in self.run(task_ids, self.config.repeats, seed).items():
                values[f"eval/{split}/{name}/return"] = run["returns"][..., -1].mean().item()
                if min(len(task_ids), self.config.repeats) > 1:
                    noise = context_noise_ratio(run["task_context"][..., -1, :])
                    values[f"{groups[split]}/{name}"] = noise.item()
        return values


def _check_offline_data(task_set: TaskSet, dataset: TaskDataset, protocols: Sequence[str]) -> None:
    """What is wrong must not surface after hours of training."""
    reading = [name for name in protocols if PROTOCOLS.get(name).needs_offline_data]
    without = sorted({*task_set.train_ids, *task_set.test_ids} - set(dataset.task_ids.tolist()))
    require(
        not reading or not without,
        "evaluation.protocols",
        list(protocols),
        f"anything without {', '.join(map(repr, reading))}, for the dataset has no data of the tasks {without}",
    )


def _make_rows(name: str, task_set: TaskSet, device: torch.device, task_ids: Tensor) -> Any:
    return make_env(name, task_ids, task_set=task_set, device=device)


def protocol_result(run: TensorDict, random_episodes: int) -> dict[str, Any]:
    """Build one protocol's entry of the summary from its run ``[tasks, repeats]``.

    ``per_episode[k]`` is the mean return after k collected episodes, ``per_task`` the final return of each
    task (mean over repeats), ``after`` the return after 1, 3 and 5 collected episodes and after the random
    episodes, ``cost`` the adaptation cost per row: episodes, environment steps and oracle answers.
    """
    returns: Any = run["returns"]
    final = returns[..., -1].mean(1)
    per_task = dict(zip(run["task_id"][:, 0].tolist(), final.tolist(), strict=True))
    curves = returns.mean((0, 1)).tolist()
    intervals = [bootstrap_interval(returns[..., k].mean(1).numpy()) for k in range(returns.shape[-1])]
    after = {str(k): curves[k] for k in (1, 3, 5, random_episodes) if k < len(curves)}
    costs = ("episodes", "env_steps", "total_env_steps", "oracle_answers")
    result = {
        "mean": final.mean().item(),
        "ci95": list(bootstrap_interval(final.numpy())),
        "per_task": per_task,
        "per_episode": curves,
        "per_episode_ci95": [list(interval) for interval in intervals],
        "after": after,
        "cost": {name: run[name][..., -1].float().mean().item() for name in costs},
    }
    if min(returns.shape[:2]) > 1:  # one task, or one context of each, has no ratio
        noise = context_noise_ratio(run["task_context"][..., -1, :]).item()
        # The ratio is undefined without variance between tasks (all rows use the same context).
        result["context_noise"] = noise if math.isfinite(noise) else None
    return result
