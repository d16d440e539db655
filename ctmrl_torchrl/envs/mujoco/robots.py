"""The formulas of the four robots: observation, reward, initial state and termination.

They are NumPy functions in float64 on rows ``[n, ...]``, used by the batched and the single environments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Robot(ABC):
    """Base class of robots; subclasses define the formulas.

    Args:
        asset: file name among gymnasium's MuJoCo assets.
        frame_skip: simulation steps per control step.
        timestep: seconds per simulation step; checked, or written to the model with ``set_timestep``.
        total_mass: mass of the nominal model in kg, checked when the model is loaded.
        set_timestep: whether to replace the asset's timestep.
        halve_margins: whether to halve contact margins. Since version 3.5, MuJoCo adds the margins of two
            geoms; the published environments used a version that took the larger one.
        position_noise, velocity_noise: scale of the initial state's noise.
        task_is_body: whether tasks differ in masses, inertias, dampings and frictions.
    """

    asset: str
    frame_skip: int
    timestep: float
    total_mass: float
    set_timestep: bool = False
    halve_margins: bool = False
    position_noise: float = 0.1
    velocity_noise: float = 0.1
    task_is_body: bool = False

    @property
    def control_step(self) -> float:
        """Seconds between two actions."""
        return self.frame_skip * self.timestep

    @abstractmethod
    def observation(self, qpos: Array, qvel: Array) -> Array:
        """The policy's observation of positions and velocities, ``[n, observation_dim]``."""

    @abstractmethod
    def positions(self, path: Array) -> Array:
        """Positions ``[steps, nq]`` along one episode, from its observations ``[steps, observation_dim]``."""

    @abstractmethod
    def reward(self, before: Array, after: Array, action: Array, parameters: Array) -> Array:
        """Reward ``[n]`` of moving from positions ``before`` to ``after`` with the clipped ``action``."""

    def fallen(self, qpos: Array, qvel: Array) -> Array:
        """Whether the robot has fallen, which terminates the episode, ``[n]``; always false by default."""
        return np.zeros(qpos.shape[0], dtype=bool)

    def initial_state(
        self, nominal: Array, velocities: int, rows: int, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Positions ``[rows, nq]`` uniform around the nominal ones, and normal velocities ``[rows, nv]``."""
        shift = generator.uniform(-1.0, 1.0, (rows, nominal.size))
        velocity = generator.standard_normal((rows, velocities))
        return nominal + self.position_noise * shift, self.velocity_noise * velocity


@dataclass(frozen=True)
class HalfCheetah(Robot):
    """Runs at the velocity v* of its task; the reward is ``-|v - v*| - 0.05 |a|^2``, v from the positions.

    The observation ends with the torso's position (x, 0, z), where x is absolute.
    """

    control_cost: float = 0.05

    def observation(self, qpos: Array, qvel: Array) -> Array:
        """``qpos[1:]``, ``qvel``, torso position: ``[n, 20]``."""
        torso = np.stack((qpos[:, 0], np.zeros_like(qpos[:, 0]), 0.7 + qpos[:, 1]), -1)
        return np.concatenate((qpos[:, 1:], qvel, torso), -1)

    def positions(self, path: Array) -> Array:
        """The torso's x and the joints, taken from the observation."""
        return np.concatenate((path[:, 17:18], path[:, :8]), -1)

    def reward(self, before: Array, after: Array, action: Array, parameters: Array) -> Array:
        """``parameters`` ``[n, 1]`` is the target velocity in m/s."""
        velocity = (after[:, 0] - before[:, 0]) / self.control_step
        return -np.abs(velocity - parameters[:, 0]) - self.control_cost * np.square(action).sum(-1)


@dataclass(frozen=True)
class Ant(Robot):
    """Walks to a goal in the plane; the reward is minus the torso's L1 distance, minus ``0.1 |a|^2``.

    There is no contact cost, because it was always zero in the simulator of the published results.
    """

    control_cost: float = 0.1

    def observation(self, qpos: Array, qvel: Array) -> Array:
        """All positions (x and y are absolute) and velocities: ``[n, 29]``."""
        return np.concatenate((qpos, qvel), -1)

    def positions(self, path: Array) -> Array:
        """The first 15 features of the observation."""
        return path[:, :15]

    def reward(self, before: Array, after: Array, action: Array, parameters: Array) -> Array:
        """``parameters`` ``[n, 2]`` is the goal."""
        distance = np.abs(after[:, :2] - parameters).sum(-1)
        return -distance - self.control_cost * np.square(action).sum(-1)


@dataclass(frozen=True)
class UprightRobot(Robot):
    """Hopper or walker, whose body differs between tasks; the reward is forward velocity plus one.

    The episode terminates when the robot falls.

    Args:
        heights: minimum and maximum height of an upright robot.
        angle: maximum tilt of an upright robot in radians.
        largest: bound on every other entry of the state; infinite for no bound.
    """

    heights: tuple[float, float] = (0.7, np.inf)
    angle: float = 0.2
    largest: float = np.inf
    control_cost: float = 1e-3

    def observation(self, qpos: Array, qvel: Array) -> Array:
        """``qpos[1:]`` and the velocities, clipped to 10."""
        return np.concatenate((qpos[:, 1:], np.clip(qvel, -10.0, 10.0)), -1)

    def positions(self, path: Array) -> Array:
        """The joints, and x, which is not observed, as the sum of the (clipped) forward speeds."""
        joints = (path.shape[1] - 1) // 2
        x = np.cumsum(path[:, joints]) * self.control_step
        return np.concatenate(((x - x[0])[:, None], path[:, :joints]), -1)

    def reward(self, before: Array, after: Array, action: Array, parameters: Array) -> Array:
        """The constant 1 is also given in the falling step; ``parameters`` act through the model."""
        velocity = (after[:, 0] - before[:, 0]) / self.control_step
        return velocity + 1.0 - self.control_cost * np.square(action).sum(-1)

    def fallen(self, qpos: Array, qvel: Array) -> Array:
        """Whether height, tilt or another entry of the state is out of bounds."""
        low, high = self.heights
        upright = (qpos[:, 1] > low) & (qpos[:, 1] < high) & (np.abs(qpos[:, 2]) < self.angle)
        state = np.concatenate((qpos, qvel), -1)
        bounded = np.isfinite(state).all(-1) & (np.abs(state[:, 2:]) < self.largest).all(-1)
        return ~(upright & bounded)

    def initial_state(
        self, nominal: Array, velocities: int, rows: int, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Positions ``[rows, nq]`` and velocities ``[rows, nv]``, both uniform."""
        shift = generator.uniform(-1.0, 1.0, (rows, nominal.size))
        velocity = generator.uniform(-1.0, 1.0, (rows, velocities))
        return nominal + self.position_noise * shift, self.velocity_noise * velocity


#: robot of each MuJoCo family
ROBOTS: dict[str, Robot] = {
    "half_cheetah_vel": HalfCheetah("half_cheetah.xml", frame_skip=5, timestep=0.01, total_mass=14.0),
    "ant_goal": Ant("ant.xml", frame_skip=5, timestep=0.01, total_mass=0.91088, halve_margins=True),
    "hopper_rand_params": UprightRobot(
        "hopper.xml",
        frame_skip=4,
        timestep=0.004,
        total_mass=15.82001,
        set_timestep=True,
        halve_margins=True,
        position_noise=5e-3,
        velocity_noise=5e-3,
        task_is_body=True,
        largest=100.0,
    ),
    "walker_rand_params": UprightRobot(
        "walker2d.xml",
        frame_skip=4,
        timestep=0.004,
        total_mass=23.67714,
        set_timestep=True,
        position_noise=5e-3,
        velocity_noise=5e-3,
        task_is_body=True,
        heights=(0.8, 2.0),
        angle=1.0,
    ),
}
