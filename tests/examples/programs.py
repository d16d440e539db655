"""Where the programs of the examples are, and overrides that make their runs small."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SMOKE = [
    "preset=smoke",
    "schedule.updates=6",
    "evaluation.every=0",
    "evaluation.final_repeats=1",
    "output.logger=none",
    "output.progress=false",
]
SHORT = ["evaluation.episodes=3", "evaluation.random_episodes=2", "evaluation.protocols=[np]"]


def load(name):
    """The module of a program, whose parts can be called one by one."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
