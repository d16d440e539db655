"""Meta-tests of an agent on the training and test tasks of its environment, under several protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from ctmrl_torchrl.collectors import (
    AdaptationProtocol,
    CandidatesProtocol,
    MetaTestCollector,
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
    RefineProtocol,
)
from ctmrl_torchrl.data import ContextDraw, TaskDataset, draw_context
from ctmrl_torchrl.envs import TaskSet, make_env
from ctmrl_torchrl.evaluation.context_noise import context_noise_ratio
from ctmrl_torchrl.evaluation.statistics import bootstrap_interval
from ctmrl_torchrl.training.config import EvaluationConfig

#: what ``evaluation.protocols`` chooses from
PROTOCOL_NAMES = ("offline", "online", "np", "np_refine", "codes")


def make_protocols(config: EvaluationConfig, codes: Tensor | None) -> list[AdaptationProtocol]:
    """The protocols named in the configuration.

    Raises:
        ValueError: for an unknown name, a budget below the number of codes, or ``codes`` with a method that
            has no codebook.
    """
    makers = {
        "offline": lambda: OfflineProtocol(config.episodes),
        "online": lambda: OnlineProtocol(config.episodes),
        "np": lambda: NonPriorProtocol(config.episodes, config.random_episodes),
        "np_refine": lambda: RefineProtocol(config.episodes, config.random_episodes),
        "codes": lambda: CandidatesProtocol(codes, config.episodes),
    }
    unknown = [name for name in config.protocols if name not in makers]
    if unknown:
        raise ValueError(f"evaluation.protocols: {unknown} unknown; choose among {sorted(makers)}.")
    if "codes" in config.protocols and codes is None:
        raise ValueError(
            "evaluation.protocols: 'codes' plays the codes of a codebook, which this method does not have; "
            "leave it out."
        )
    return [makers[name]() for name in config.protocols]


class MetaTester:
    """Runs protocols on task splits and turns the outcome into plain numbers.

    Args:
        task_set (TaskSet): tasks and splits.
        dataset (TaskDataset): for the ``offline`` protocol.
        actor, context_encoder (TensorDictModule): the agent.

    Keyword Args:
        context_dim (int): latent size. codes (Tensor or None): the codebook's codes, live.
        config (EvaluationConfig): budgets and protocols.
        device (torch.device): where environments run.
    """

    def __init__(
        self,
        task_set: TaskSet,
        dataset: TaskDataset,
        actor: TensorDictModuleBase,
        context_encoder: TensorDictModuleBase,
        *,
        context_dim: int,
        codes: Tensor | None,
        config: EvaluationConfig,
        device: torch.device,
    ) -> None:
        # What is wrong must not surface after hours of training.
        make_protocols(config, codes)
        if "offline" in config.protocols:
            dataset.task_index([*task_set.train_ids, *task_set.test_ids])
        self.task_set = task_set
        self.dataset = dataset
        self.actor = actor
        self.context_encoder = context_encoder
        self.context_dim = context_dim
        self.codes = codes
        self.config = config
        self.device = device
        self._collectors: dict[tuple[tuple[int, ...], int], MetaTestCollector] = {}

    def collector(self, task_ids: Sequence[int], repeats: int) -> MetaTestCollector:
        """The collector of these tasks, each ``repeats`` times; made on first use."""
        key = tuple(task_ids), repeats
        if key not in self._collectors:
            rows = torch.tensor(task_ids).repeat_interleave(repeats)
            family = self.task_set.family
            self._collectors[key] = MetaTestCollector(
                make_env(family.name, rows, task_set=self.task_set, device=self.device),
                self.actor,
                self.context_encoder,
                task_ids=rows,
                horizon=family.horizon,
                context_dim=self.context_dim,
                return_key=family.return_key,
                offline_draw=self._draw_offline,
            )
        return self._collectors[key]

    def _draw_offline(self, task_ids: Tensor, generator: torch.Generator) -> TensorDict:
        """One whole trajectory per row, from any snapshot of the task's data."""
        one = ContextDraw(trajectories=(1, 1), behaviours=None, near_random_fraction=0.0)
        return draw_context(self.dataset, task_ids, one, generator).to(self.device)

    def run(self, task_ids: Sequence[int], repeats: int, seed: int) -> dict[str, TensorDict]:
        """Every protocol on the given tasks: ``{protocol: TensorDict [tasks, repeats]}``, on the CPU."""
        collector = self.collector(task_ids, repeats)
        runs = {}
        for protocol in make_protocols(self.config, None if self.codes is None else self.codes.detach()):
            runs[protocol.name] = collector.run(protocol, seed=seed).cpu().reshape(len(task_ids), repeats)
        return runs

    def quick_numbers(self, seed: int) -> dict[str, float]:
        """Flat numbers for the metrics log, per split and protocol: final returns, context noise."""
        groups = {"test": "context_noise", "train": "context_noise_train"}
        values = {}
        for split, task_ids in (("test", self.task_set.test_ids), ("train", self.task_set.train_ids)):
            for name, run in self.run(task_ids, self.config.repeats, seed).items():
                values[f"eval/{split}/{name}/return"] = run["returns"][..., -1].mean().item()
                if self.config.repeats > 1:
                    noise = context_noise_ratio(run["task_context"][..., -1, :])
                    values[f"{groups[split]}/{name}"] = noise.item()
        return values


def protocol_result(run: TensorDict, random_episodes: int) -> dict[str, Any]:
    """One protocol's entry of the summary from its run ``[tasks, repeats]``: plain numbers.

    ``per_episode[k]`` is the mean return after k collected episodes, ``per_task`` the final return of each
    task (mean over repeats), ``after`` the return after 1 collected episode and after the random ones.
    """
    returns = run["returns"]
    final = returns[..., -1].mean(1)
    per_task = dict(zip(run["task_id"][:, 0].tolist(), final.tolist(), strict=True))
    curves = returns.mean((0, 1)).tolist()
    intervals = [bootstrap_interval(returns[..., k].mean(1).numpy()) for k in range(returns.shape[-1])]
    after = {str(k): curves[k] for k in (1, random_episodes) if k < len(curves)}
    result = {
        "mean": final.mean().item(),
        "ci95": list(bootstrap_interval(final.numpy())),
        "per_task": per_task,
        "per_episode": curves,
        "per_episode_ci95": [list(interval) for interval in intervals],
        "after": after,
    }
    if returns.shape[1] > 1:
        noise = context_noise_ratio(run["task_context"][..., -1, :]).item()
        # Without any variance between tasks (all act with one and the same context) there is no ratio.
        result["context_noise"] = noise if math.isfinite(noise) else None
    return result
