"""Kinds of TorchRL collectors for whole episodes, as an open registry, for meta-tests and for data collection."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import BaseCollector, Collector, MultiSyncCollector
from torchrl.envs import EnvBase, TransformedEnv

from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import registered, require, ruled, whole


class EpisodeEnv(TransformedEnv):
    """Wraps an environment so that rows are not reset after the last step of an episode.

    A TorchRL collector resets every row that is done, even after the last step of a batch, and a collector with
    ``reset_at_each_iter=True`` then resets all rows again. The first reset costs time and, with random initial
    states, changes the random numbers of all later episodes. Rows that end before the horizon restart, as in
    ``env.rollout(horizon, break_when_any_done=False)``.

    Args:
        env (EnvBase): batched; its methods are called directly, without transforms.
        horizon (int): number of steps of an episode.

    Keyword Args:
        owned (bool): whether :meth:`close` also closes ``env``.

    Examples:
        >>> from ctmrl_torchrl.envs import make_env
        >>> env = EpisodeEnv(make_env("point_robot", [2, 6]), horizon=20, owned=True)
        >>> td = env.rand_action(env.reset())
        >>> env.step_and_maybe_reset(td)[0]["next", "reward"].shape
        torch.Size([2, 1])
    """

    def __init__(self, env: EnvBase, horizon: int, *, owned: bool) -> None:
        super().__init__(env, auto_unwrap=False)
        self.horizon = horizon
        self.owned = owned
        self.taken = 0

    def reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Reset all rows at the beginning of an episode."""
        self.taken = 0
        return self.base_env.reset(tensordict, **kwargs)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step every row; rows that are done restart unless the episode is over."""
        self.taken += 1
        if self.taken < self.horizon:
            return self.base_env.step_and_maybe_reset(tensordict)
        # The state after the last step is never read, because the next episode resets all rows.
        return self.base_env.step(tensordict), tensordict.empty()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the wrapped environment if this wrapper owns it; otherwise it stays open."""
        if self.owned:
            super().close(raise_if_closed=raise_if_closed)


@dataclass(frozen=True)
class CollectorParts:
    """The inputs for creating a TorchRL collector of episodes; every worker has its own rows.

    Args:
        make_envs (tuple of callable): one per worker; each creates the environment of the worker's rows. All
            have the same number of rows.
        make_policies (tuple of callable): one per worker; each creates its policy.
        frames (int): frames per batch and worker, which is one episode of each of its rows.
        device (torch.device or None): device of environments and policies.
    """

    make_envs: tuple[Callable[[], EnvBase], ...]
    make_policies: tuple[Callable[[], TensorDictModuleBase], ...]
    frames: int
    device: torch.device | None


@dataclass(frozen=True)
class CollectorKind:
    """A kind of TorchRL collector for episodes.

    Args:
        make (callable): creates a collector from its parts. Each batch is one episode of every row,
            ``[n, H]`` or ``[workers, n / workers, H]``; its ``map_fn`` can access ``policy`` and ``env`` of each
            worker.
        in_process (bool): whether it runs in this process, with one worker and the actor itself.
        requires (str, optional): name of a required package.
    """

    make: Callable[[CollectorParts], BaseCollector]
    in_process: bool = False
    requires: str | None = None


#: kinds of collectors, by ``CollectorConfig.kind``
COLLECTORS: Registry[CollectorKind] = Registry("collector")

# The share of a processor that a Ray actor reserves. Ray waits forever for an actor that does not fit, and a
# meta-tester holds up to four collectors, which take turns: two splits, periodic and final repeats.
_SHARE = 0.25

# Every batch begins with a reset of all rows; tensors without other owners are not copied.
_EVERY_KIND: dict[str, Any] = {
    "total_frames": -1,
    "reset_at_each_iter": True,
    "no_cuda_sync": True,
    "trust_policy": True,
}


@dataclass
class CollectorConfig:
    """The TorchRL collector for episodes and its number of workers.

    A meta-test splits the rows of its environment over the workers; the collection of data splits its policies.

    Args:
        kind (str): ``single`` runs everything in this process (``torchrl.collectors.Collector``);
            ``multi_sync`` splits it over processes (``MultiSyncCollector``); ``ray`` over the machines of a
            Ray cluster (``RayCollector``). Other kinds can be registered in ``COLLECTORS``.
        workers (int): number of processes or Ray actors; 1 with ``single``. At most one per row or policy is
            started.

    Worker processes are spawned, so a program that uses ``multi_sync`` or ``ray`` must start its work under
    ``if __name__ == "__main__":``.

    Examples:
        >>> CollectorConfig(kind="multi_sync", workers=4).check()
        >>> CollectorConfig(workers=4).check()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: config field collector.workers: got 4, allowed is 1 for ...
    """

    kind: str = ruled("single", registered(COLLECTORS))
    workers: int = ruled(1, whole(1))

    def check(self, path: str = "collector") -> None:
        """Check the combination of fields and that the kind's package is installed.

        Args:
            path (str): name of this configuration in error messages.

        Raises:
            ConfigError: if ``single`` has several workers, or Ray is missing.
        """
        kind = COLLECTORS.get(self.kind)
        require(
            not kind.in_process or self.workers == 1,
            f"{path}.workers",
            self.workers,
            f"1 for {path}.kind={self.kind!r}, which runs in this process; choose {path}.kind='multi_sync' "
            "for several processes",
        )
        require(
            kind.requires is None or importlib.util.find_spec(kind.requires) is not None,
            f"{path}.kind",
            self.kind,
            f"a kind whose package is installed, and {kind.requires!r} is not: pip install {kind.requires}, "
            "or choose 'single' or 'multi_sync'",
        )


def make_single(parts: CollectorParts) -> Collector:
    """All rows in this process, sharing the actor's parameters."""
    return Collector(
        cast(Any, parts.make_envs[0]),
        parts.make_policies[0](),
        frames_per_batch=parts.frames,
        device=parts.device,
        use_buffers=False,
        return_same_td=True,
        track_traj_ids=False,
        auto_register_policy_transforms=False,
        **_EVERY_KIND,
    )


def make_multi_sync(parts: CollectorParts) -> MultiSyncCollector:
    """One spawned process per worker."""
    return MultiSyncCollector(
        list(parts.make_envs),
        policy_factory=list(parts.make_policies),
        frames_per_batch=[parts.frames] * len(parts.make_envs),
        use_buffers=False,
        cat_results="stack",
        policy_device=parts.device,
        env_device=parts.device,
        storing_device="cpu",
        weight_sync_schemes={},
        auto_register_policy_transforms=False,
        **_EVERY_KIND,
    )


def make_ray(parts: CollectorParts) -> BaseCollector:
    """One Ray actor per worker on the machines of the cluster; starts Ray if it is not running."""
    from torchrl.collectors.distributed import RayCollector

    options: dict[str, Any] = {
        "use_buffers": False,
        "return_same_td": True,
        "auto_register_policy_transforms": False,
    }
    workers = len(parts.make_envs)
    on_gpu = parts.device is not None and parts.device.type == "cuda"
    resources = {"num_cpus": _SHARE, "num_gpus": _SHARE if on_gpu else 0}
    every_kind: dict[str, Any] = _EVERY_KIND | {
        "total_frames": 2**62
    }  # -1 means zero frames here, not unlimited
    return RayCollector(
        list(parts.make_envs),
        policy_factory=list(parts.make_policies),
        frames_per_batch=parts.frames * workers,
        collector_class=cast(Any, Collector),
        collector_kwargs=[dict(options) for _ in range(workers)],
        remote_configs=[dict(resources) for _ in range(workers)],
        policy_device=parts.device,
        env_device=parts.device,
        storing_device=torch.device("cpu"),
        weight_sync_schemes={},
        sync=True,
        **every_kind,
    )


COLLECTORS.register("single", CollectorKind(make_single, in_process=True))
COLLECTORS.register("multi_sync", CollectorKind(make_multi_sync))
COLLECTORS.register("ray", CollectorKind(make_ray, requires="ray"))
