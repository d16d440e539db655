"""Plays recorded policies in processes or Ray actors, with the random numbers of one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig, CollectorParts, EpisodeEnv
from ctmrl_torchrl.data.behaviour.agents import BehaviourAgents, task_rows
from ctmrl_torchrl.envs import TaskSet

#: the states of torch's global generator and of the environment's; the latter is None if it is unknown
RandomState = tuple[Tensor, Any]


def random_state(env: EnvBase) -> RandomState:
    """The state of all random numbers of the next episode."""
    known = getattr(env, "random_state", None)
    return torch.get_rng_state(), None if known is None else known()


def set_random_state(env: EnvBase, state: RandomState) -> None:
    """Continue from another environment's :func:`random_state`."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        cast(Any, env).set_random_state(state[1])


def same(one: RandomState, other: RandomState) -> bool:
    """Whether two states are equal."""
    return torch.equal(one[0], other[0]) and one[1] == other[1]


class RecordedEnv(EpisodeEnv):
    """The environment of a worker, whose episodes begin with given states of the generators.

    Args:
        env (EnvBase): batched, seeded. horizon (int): number of steps of an episode.
        seed (int): the environment's seed; set again before the first episode if its state is unknown.
    """

    def __init__(self, env: EnvBase, horizon: int, seed: int) -> None:
        super().__init__(env, horizon, owned=True)
        self._seed: int | None = seed
        self._begun: RandomState | None = None
        self._ended: RandomState | None = None

    def begin(self, state: RandomState) -> None:
        """The states of the generators at the start of the next episode."""
        self._begun = state
        if state[1] is None and self._seed is not None:
            self.base_env.set_seed(self._seed)
            self._seed = None

    def reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Reset all rows at the beginning of an episode."""
        if self._begun is not None:
            set_random_state(self.base_env, self._begun)
        return super().reset(tensordict, **kwargs)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step every row, and remember the states of the generators after the last step."""
        stepped = super().step_and_maybe_reset(tensordict)
        if self.taken == self.horizon:
            self._ended = random_state(self.base_env)
        return stepped

    def ended(self) -> RandomState | None:
        """The states of the generators at the end of the last episode."""
        return self._ended


def make_recorded_env(
    tasks: TaskSet, task_ids: Sequence[int], trajectories: int, seed: int, threads: int
) -> RecordedEnv:
    """Create the environment of a worker, whose process then has ``threads``: others may round differently."""
    torch.set_num_threads(threads)
    env = task_rows(tasks, task_ids, trajectories, device="cpu", seed=seed)
    return RecordedEnv(env, tasks.family.horizon, seed)


class RecordedPolicy(TensorDictModuleBase):
    """The policy of a worker: that of the agents with given parameters, or uniformly random actions.

    Args:
        policy (TensorDictModule): see :meth:`BehaviourAgents.policy`.
        action_spec (TensorSpec): draws random actions. action_key (NestedKey): key of the actions.
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, policy: TensorDictModuleBase, action_spec: TensorSpec, action_key: NestedKey) -> None:
        super().__init__()
        self.policy = policy
        self.action_spec = action_spec
        self.in_keys, self.out_keys = list(policy.in_keys), [action_key]
        self._random = True

    def begin(self, parameters: TensorDictBase | None) -> None:
        """Prepare an episode with these parameters and buffers; None means random actions."""
        self._random = parameters is None
        if parameters is not None:
            cast(TensorDict, TensorDict.from_module(self.policy)).data.update_(parameters)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions of one step, and nothing else that would have to be sent."""
        key = self.out_keys[0]
        if self._random:
            return tensordict.set(key, self.action_spec.rand())
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            return tensordict.set(key, self.policy(tensordict.copy()).get(key))


class SnapshotWorkers:
    """A TorchRL collector whose workers each play another policy, all with the rows of :func:`task_rows`.

    The result is that of one process bit for bit. There, policies share two streams of random numbers: actions
    come from torch's global generator, initial states from the environment's. A policy usually takes a known
    number of both. So the states at the start of the policies after it are computed, and their episodes played
    at the same time. Each worker returns the states at the end of its episodes. Episodes that began with other
    states than those at which the policy before ended, because a simulation became unstable and restarted or
    because the agents draw other numbers, are discarded and played again.

    How often a row restarts after a fall is not known before. Policies of families whose episodes may end early,
    and of environments without ``random_state``, are therefore played one after the other by one worker.

    Args:
        tasks, task_ids, trajectories, agents, seed: see
            :func:`~ctmrl_torchrl.data.behaviour.recording.record_snapshots`.
        config (CollectorConfig): a kind with processes of its own, and their number.
    """

    def __init__(
        self,
        tasks: TaskSet,
        task_ids: Sequence[int],
        trajectories: int,
        agents: BehaviourAgents,
        *,
        seed: int,
        config: CollectorConfig,
    ) -> None:
        self._agents = agents
        self._kind = COLLECTORS.get(config.kind)
        self._most = config.workers
        self._horizon = tasks.family.horizon
        self._env = task_rows(
            tasks, task_ids, trajectories, device="cpu", seed=seed
        )  # draws, and never steps
        if tasks.family.terminates or not hasattr(self._env, "random_state"):
            self._most = 1
        threads = torch.get_num_threads()
        self._make_env = partial(make_recorded_env, tasks, task_ids, trajectories, seed, threads)

    def play(self, policies: Sequence[TensorDictBase | None]) -> Iterator[TensorDictBase]:
        """Yield the episodes ``[rows, time]`` of each policy, in order; None is the uniformly random policy.

        Begins with the present state of torch's global generator.
        """
        state, played = random_state(self._env), 0
        workers = min(self._most, len(policies))
        collector: Any = self._start(workers)
        try:
            batches = iter(collector)
            while played < len(policies):
                # Workers with nothing left to do repeat the last policy.
                chosen = [policies[min(played + i, len(policies) - 1)] for i in range(workers)]
                starts = [state]
                for parameters in chosen[:-1]:
                    starts.append(self._after(starts[-1], random=parameters is None))
                collector.map_fn("policy.begin", [(self._parameters(each),) for each in chosen])
                collector.map_fn("env.begin", [(start,) for start in starts])
                batch: Any = next(batches)
                ends = collector.map_fn("env.ended", [()] * workers)
                episodes = batch.reshape(workers, *self._env.batch_size, self._horizon)
                for episode, start, end in zip(episodes, starts, ends, strict=True):
                    if played == len(policies) or not same(start, state):
                        break
                    yield episode
                    state, played = end, played + 1
        finally:
            collector.shutdown()
            self._env.close()

    def _start(self, workers: int) -> Any:
        key = self._env.action_key
        spec = self._env.full_action_spec[key]
        make_policy = partial(RecordedPolicy, self._agents.policy(), spec, key)
        frames = self._env.batch_size.numel() * self._horizon
        parts = CollectorParts(
            (self._make_env,) * workers, (make_policy,) * workers, frames, torch.device("cpu")
        )
        return self._kind.make(parts)

    def _parameters(self, snapshot: TensorDictBase | None) -> TensorDictBase | None:
        if snapshot is None:
            return None
        self._agents.load_snapshot(snapshot)
        return cast(TensorDict, TensorDict.from_module(self._agents.policy())).data.clone()

    def _after(self, state: RandomState, *, random: bool) -> RandomState:
        """The states after a policy all of whose rows last to the horizon."""
        with torch.random.fork_rng(devices=[]):
            set_random_state(self._env, state)
            self._env.reset()
            for _ in range(self._horizon):
                if random:
                    self._env.rand_action()
                else:
                    torch.empty(self._env.full_action_spec[self._env.action_key].shape).normal_()
            return random_state(self._env)
