"""A family of your own, which the paper does not have: pendulums of different mass, length and motor.

python examples/own_family.py                                   # the smoke preset: seconds on a CPU
python examples/own_family.py preset=quick method=ctmrl seed=1  # any override of examples/train_ctmrl.py
ctmrl --plugin own_family train env=pendulum preset=smoke       # the same from the console, in this folder

docs/howto/own_family.md has the command that learns, and what it returns. The motor is what makes a task worth
knowing: one policy serves all these masses and lengths nearly as well as one that is told them, but none
serves both ways to wire a motor.

A family needs a function that makes a gymnasium environment for given task parameters, and how these
parameters are drawn. Everything else is found out: sizes, action bounds, horizon.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
from gymnasium.wrappers import TransformAction

import ctmrl_torchrl
from ctmrl_torchrl.envs import from_gymnasium


def make_pendulum(mass: float, length: float, motor: float) -> gymnasium.Env:
    """The pendulum of one task; ``m`` and ``l`` are what gymnasium calls its mass and its length."""
    env = gymnasium.make("Pendulum-v1")
    env.unwrapped.m, env.unwrapped.l = mass, length
    return TransformAction(env, lambda torque: motor * torque, env.action_space)


def draw_motor(generator: np.random.Generator) -> float:
    """Which way round the motor is wired: at -1 it turns against the action."""
    return generator.choice([-1.0, 1.0])


from_gymnasium(
    "pendulum",
    make_pendulum,
    parameters={"mass": (0.5, 1.5), "length": (0.5, 1.5), "motor": draw_motor},
    train_tasks=30,
    test_tasks=10,
    discount=0.95,
    terminates=False,  # an episode ends by the clock alone
)

if __name__ == "__main__":
    summary = ctmrl_torchrl.run(["env=pendulum", *(sys.argv[1:] or ["preset=smoke"])])
    for protocol, result in summary["returns"]["test"].items():
        print(f"{protocol}: mean return of the unseen pendulums {result['mean']:.1f}")
