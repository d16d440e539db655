"""Small gymnasium environments with tasks, as users write them."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

Box = gymnasium.spaces.Box


class Cart(gymnasium.Env):
    """A cart pushed by a force: it terminates beyond 1, and its observation is a 2 x 1 matrix of float64."""

    def __init__(self, mass=1.0, low=-2.0, high=4.0, shape=(2, 1), breaks_at=None, broken=np.nan):
        self.mass, self.breaks_at, self.broken = mass, breaks_at, broken
        self.observation_space = Box(-np.inf, np.inf, shape, np.float64)
        self.action_space = Box(low, high, (1, 1), np.float32)
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = np.array([self.np_random.uniform(-0.1, 0.1), 0.0]), 0
        return self._observe(), {}

    def _observe(self):
        return np.resize(self.state, self.observation_space.shape).copy()

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.actions.append(action.copy())
        self.state[1] += 0.1 * action[0, 0] / self.mass
        self.state[0] += 0.1 * self.state[1]
        reward = -abs(self.state[0]) if self.steps != self.breaks_at else self.broken
        return self._observe(), reward, bool(abs(self.state[0]) > 1), False, {"far": 10 * self.state[0]}


def make_cart(mass):
    return gymnasium.wrappers.TimeLimit(Cart(mass), 15)


#: the ranges of the pendulums' parameters
PENDULUM = {"mass": (0.5, 1.5), "length": (0.5, 1.5)}


def make_pendulum(mass, length):
    env = gymnasium.make("Pendulum-v1")
    env.unwrapped.m, env.unwrapped.l = mass, length
    return env


class Choice(gymnasium.Env):
    """Nothing but spaces."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = Box(-1, 1, (2,)) if observation_space is None else observation_space
        self.action_space = Box(-1, 1, (2,)) if action_space is None else action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def constant(value):
    """A policy that always acts the same."""
    return lambda td: td.set("action", torch.full((*td.batch_size, 1), value))
