"""Records episodes of behavior policies and measures the final policy without noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig
from ctmrl_torchrl.data.behaviour.agents import BehaviourAgents, isolated_rng, task_rows
from ctmrl_torchrl.data.behaviour.workers import SnapshotWorkers
from ctmrl_torchrl.data.layout import FLAG_KEYS, REWARD_KEYS
from ctmrl_torchrl.envs import TaskSet, first_episodes
from ctmrl_torchrl.progress import progress_bar

#: noise-free episodes per task for measuring the oracle's return
ORACLE_EPISODES = 8


def measure_oracle(
    tasks: TaskSet,
    agents: BehaviourAgents,
    policy: TensorDict | None,
    *,
    seed: int,
    task_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Mean return of the final behavior policy without noise: the return with privileged task information.

    Args:
        tasks: the tasks.
        agents: agents into whose actor the policy is loaded.
        policy: actor parameters; None (only random data) gives an empty result.
        seed: seed of the initial states.
        task_ids: tasks to measure; None means all tasks.

    Returns:
        ``train`` and ``test`` (means over tasks; None if no task of the split is measured),
        ``task_returns`` (by position in ``task_ids``), ``episodes`` per task, and ``task_ids`` if they are not
        all tasks.
    """
    if policy is None:
        return {}
    ids = range(tasks.n_tasks) if task_ids is None else task_ids
    agents.load_snapshot(policy)
    env = task_rows(tasks, ids, ORACLE_EPISODES, device=agents.device, seed=seed)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        played = env.rollout(tasks.family.horizon, agents.policy(), break_when_any_done=False)
    env.close()
    rewards = first_episodes(played[tasks.family.return_key], played["next", "done"])
    returns = rewards.sum(1).reshape(ORACLE_EPISODES, -1).mean(0).cpu()

    def mean_of(split: Sequence[int]) -> float | None:
        kept = torch.isin(torch.tensor(ids), torch.tensor(split))
        return returns[kept].mean().item() if kept.any() else None

    measured = {
        "train": mean_of(tasks.train_ids),
        "test": mean_of(tasks.test_ids),
        "task_returns": returns.tolist(),
        "episodes": ORACLE_EPISODES,
    }
    return measured if task_ids is None else measured | {"task_ids": list(ids)}


def record_snapshots(
    tasks: TaskSet,
    agents: BehaviourAgents,
    policies: list[TensorDict | None],
    trajectories: int,
    *,
    seed: int,
    progress: bool = False,
    task_ids: Sequence[int] | None = None,
    collector: CollectorConfig | None = None,
) -> TensorDict:
    """Run every policy in every task and return the transitions in the order of :class:`TaskDataset`.

    Args:
        tasks: the tasks.
        agents: agents into whose actor each policy is loaded.
        policies: actor parameters by snapshot id; None means the uniformly random policy.
        trajectories: stochastic episodes per policy and task.
        seed: seed of the action sampling.
        progress: show a progress bar over policies.
        task_ids: tasks to record, increasing; None means all tasks.
        collector: where the episodes are played; None means in this process. The data are the same, see
            :class:`~ctmrl_torchrl.data.behaviour.workers.SnapshotWorkers`.
    """
    horizon = tasks.family.horizon
    ids = range(tasks.n_tasks) if task_ids is None else task_ids
    config = CollectorConfig() if collector is None else collector
    if COLLECTORS.get(config.kind).in_process:
        env = task_rows(tasks, ids, trajectories, device=agents.device, seed=seed)
        played = _play_here(env, horizon, agents, policies)
    else:
        workers = SnapshotWorkers(tasks, ids, trajectories, agents, seed=seed, config=config)
        played = workers.play(policies)
    recorded = []
    with (
        torch.no_grad(),
        isolated_rng(seed, agents.device),
        set_exploration_type(ExplorationType.RANDOM),
        progress_bar(len(policies), "recording", unit="policies", shown=progress) as bar,
    ):
        for rows in played:
            recorded.append(
                _stored_keys(rows, tasks.family.return_key).reshape(trajectories, len(ids), horizon).cpu()
            )
            bar.update()
    data: Any = torch.stack(recorded).permute(2, 0, 1, 3)  # [tasks, snapshots, trajectories, time]
    position, snapshot, _, _ = torch.meshgrid(*(torch.arange(size) for size in data.shape), indexing="ij")
    data = data.set("task_id", torch.tensor(ids)[position]).set("snapshot_id", snapshot)
    # rows that ended early were reset and continued, so only their first episode is complete
    done = data["next", "done"].squeeze(-1).long()
    kept = done.cumsum(-1) - done == 0
    unstable = data.get(("next", "unstable"), None)
    if unstable is not None:  # discard episodes in which the simulation became unstable
        kept &= ~(unstable.squeeze(-1) & kept).any(-1, keepdim=True)
        data = data.exclude(("next", "unstable"))
    data = data[kept]
    ends = data["next", "done"].squeeze(-1).long()
    return data.set("trajectory_id", ends.cumsum(0) - ends)


def _play_here(
    env: EnvBase, horizon: int, agents: BehaviourAgents, policies: Sequence[TensorDict | None]
) -> Iterator[TensorDictBase]:
    """Yield the episodes ``[rows, time]`` of each policy, played in this process."""
    for parameters in policies:
        if parameters is not None:
            agents.load_snapshot(parameters)
        policy = None if parameters is None else agents.policy()
        yield env.rollout(horizon, policy, break_when_any_done=False)
    env.close()


def _stored_keys(rows: TensorDictBase, return_key: NestedKey) -> TensorDictBase:
    keys = ["observation", "action", ("next", "observation"), ("next", "unstable"), *REWARD_KEYS, *FLAG_KEYS]
    return rows.select(*dict.fromkeys([*keys, return_key]), strict=False)
