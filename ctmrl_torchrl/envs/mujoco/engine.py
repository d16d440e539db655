"""Many simulations of one robot, stepped in C++; the only module that drives MuJoCo.

:class:`BatchEngine` uses ``mujoco.batch`` (MuJoCo 4); :class:`RolloutEngine` uses ``mujoco.rollout`` in older
versions. Both are rebuilt from plain arrays when they are unpickled, so that no simulator handle is copied to
another process.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import mujoco
import numpy as np
from torchrl._utils import logger as torchrl_logger

Array = np.ndarray


def _log_warning(message: str) -> None:
    torchrl_logger.debug(f"MuJoCo: {message}")


def keep_warnings_out_of_files() -> None:
    """Sends MuJoCo's warnings to TorchRL's logger (level debug) instead of MUJOCO_LOG.TXT and the console.

    MuJoCo writes that file to the working folder whenever a simulation becomes unstable. A handler that the user
    set with ``mujoco.set_mju_user_warning`` is kept.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


class Engine(ABC):
    """Base class of engines that run simulations of one robot, one per row.

    Args:
        model: the nominal model.
        rows: number of simulations.
        frame_skip: simulation steps per control step.
        threads: number of simulator threads; only one is safe under ``fork``.
        recompute_constants: whether the constants that MuJoCo derives from masses and inertias (the softness
            of contacts and limits) are recomputed for each row's fields. The published tasks keep the nominal
            values.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        rows: int,
        frame_skip: int,
        threads: int = 1,
        recompute_constants: bool = False,
    ) -> None:
        self.model, self.rows, self.frame_skip, self.threads = model, rows, frame_skip, threads
        self.recompute_constants = recompute_constants
        self.fields: dict[str, Array] = {}
        keep_warnings_out_of_files()
        self._build()

    @abstractmethod
    def _build(self) -> None:
        """Create the simulations."""

    @property
    @abstractmethod
    def qpos(self) -> Array:
        """Positions ``[rows, nq]``, live."""

    @property
    @abstractmethod
    def qvel(self) -> Array:
        """Velocities ``[rows, nv]``, live."""

    @abstractmethod
    def set_fields(self, fields: Mapping[str, Array]) -> None:
        """Give every simulation its own values ``[rows, ...]`` of some model fields."""

    @abstractmethod
    def set_state(self, rows: Array, qpos: Array, qvel: Array) -> None:
        """Put the simulations ``rows`` into a state, at time 0 and without memory of earlier steps."""

    @abstractmethod
    def step(self, control: Array, rows: Array | None = None) -> Array:
        """Advance (some) rows by one control step; returns which became unstable, ``[rows]`` bool."""

    def __getstate__(self) -> dict[str, Any]:
        names = ("model", "rows", "frame_skip", "threads", "recompute_constants", "fields")
        state = np.array(self.qpos), np.array(self.qvel)
        return {name: getattr(self, name) for name in names} | {"state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        qpos, qvel = state.pop("state")
        fields = state.pop("fields")
        self.__init__(**state)
        self.set_fields(fields)
        self.set_state(np.arange(self.rows), qpos, qvel)


class BatchEngine(Engine):
    """Simulations in a ``mujoco.batch.Batch``; bit-identical to a loop over ``mj_step``."""

    def _build(self) -> None:
        from mujoco.batch import Batch

        self._batch = Batch(self.model, self.rows, nthread=self.threads)
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))

    @property
    def qpos(self) -> Array:
        """Positions ``[rows, nq]``, live."""
        return self._qpos

    @property
    def qvel(self) -> Array:
        """Velocities ``[rows, nv]``, live."""
        return self._qvel

    def set_fields(self, fields: Mapping[str, Array]) -> None:
        """Give every simulation its own values ``[rows, ...]`` of some model fields."""
        self.fields.update(fields)
        for name, values in fields.items():
            self._batch.expand(name)[:] = values
        if self.recompute_constants:
            self._batch.set_const()

    def set_state(self, rows: Array, qpos: Array, qvel: Array) -> None:
        """Put the simulations ``rows`` into a state, at time 0 and without memory of earlier steps."""
        self._batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[rows], self._qvel[rows] = qpos, qvel

    def step(self, control: Array, rows: Array | None = None) -> Array:
        """Advance by one control step; returns which simulations became unstable, ``[rows]`` bool."""
        self._ctrl[:] = control
        self._batch.step(rows, nstep=self.frame_skip)
        return (self._batch.warning[..., 1] > 0).any(-1)


class RolloutEngine(Engine):
    """Simulations with ``mujoco.rollout`` and one model per row; the solver loses its warm start at each step."""

    def _build(self) -> None:
        self._models = [copy.copy(self.model) for _ in range(self.rows)]
        self._data = mujoco.MjData(self.model)
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state = np.zeros((self.rows, size))

    @property
    def qpos(self) -> Array:
        """Positions ``[rows, nq]``, live."""
        return self._state[:, 1 : 1 + self.model.nq]

    @property
    def qvel(self) -> Array:
        """Velocities ``[rows, nv]``, live."""
        return self._state[:, 1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    def set_fields(self, fields: Mapping[str, Array]) -> None:
        """Give every simulation its own values ``[rows, ...]`` of some model fields."""
        self.fields.update(fields)
        for name, values in fields.items():
            for model, value in zip(self._models, values, strict=True):
                getattr(model, name)[:] = value
        for model in self._models if self.recompute_constants else ():
            mujoco.mj_setConst(model, mujoco.MjData(model))

    def set_state(self, rows: Array, qpos: Array, qvel: Array) -> None:
        """Put the simulations ``rows`` into a state, at time 0."""
        self._state[rows, 0] = 0.0
        self.qpos[rows], self.qvel[rows] = qpos, qvel

    def step(self, control: Array, rows: Array | None = None) -> Array:
        """Advance by one control step; returns which simulations became unstable, ``[rows]`` bool."""
        from mujoco import rollout

        moved = np.arange(self.rows) if rows is None else np.asarray(rows)
        unstable = np.zeros(self.rows, dtype=bool)
        if not moved.size:
            return unstable
        models, start = [self._models[row] for row in moved], self._state[moved]
        actions = np.repeat(np.asarray(control, dtype=np.float64)[moved, None], self.frame_skip, axis=1)
        states, _ = rollout.rollout(models, self._data, start, actions)
        # MuJoCo resets an unstable simulation including its clock.
        expected = start[:, 0] + self.frame_skip * self.model.opt.timestep
        unstable[moved] = ~np.isclose(states[:, -1, 0], expected)
        self._state[moved] = states[:, -1]
        return unstable


def make_engine(
    model: mujoco.MjModel,
    rows: int,
    frame_skip: int,
    threads: int = 1,
    recompute_constants: bool = False,
) -> Engine:
    """Create the fastest engine of the installed MuJoCo; see :class:`Engine` for the arguments.

    Raises:
        ValueError: if ``threads`` is not a positive whole number.
    """
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads!r}.")
    kind = BatchEngine if find_spec("mujoco.batch") is not None else RolloutEngine
    return kind(model, rows, frame_skip, threads, recompute_constants)
