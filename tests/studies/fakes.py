"""Stand-ins for the trainer: runs of a tenth of a second that can be killed and gone on with."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from ctmrl_torchrl.evaluation import build_summary, write_summary

ASIDE = ("run_dir=", "resume=", "output.", "overwrite=", "dataset.root=")


def resolve(overrides):
    """A stand-in for Hydra: dotted fields become sections."""
    found = {
        "env": "point_robot",
        "method": "ctmrl",
        "seed": 0,
        "tasks": "repo",
        "preset": "smoke",
        "dataset": {"recipe": "small", "seed": 0, "root": "datasets", "path": None},
        "policy_loss": {"name": "brac_sac"},
        "schedule": {"updates": 8},
    }
    for override in overrides:
        name, _, value = override.partition("=")
        *path, last = name.split(".")
        place = found
        for step in path:
            place = place.setdefault(step, {})
        place[last] = yaml.safe_load(value)
    return found


@dataclass(frozen=True)
class FakeData:
    """Notes in a file that it was asked for data; returns a fingerprint."""

    log: str
    content: str = "data"

    def __call__(self, overrides):
        configuration = resolve(overrides)
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write(f"{configuration['env']}\n")
        return hashlib.sha256(f"{self.content} {configuration['env']}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class FakeRun:
    """A run whose result depends on its overrides alone, however often it was interrupted.

    Args:
        log: file that gets a line for every start, every step and every end.
        pause: seconds per step, of which there are ``schedule.updates``.
        failing: overrides that make a run fail at its fifth step. dying: that end its process there.
        once: fail or die the first time only.
    """

    log: str
    pause: float = 0.0
    failing: tuple[str, ...] = ()
    dying: tuple[str, ...] = ()
    once: bool = False
    dataset: str = "small"

    def __call__(self, overrides):
        configuration = resolve(overrides)
        folder = Path(configuration["run_dir"])
        described = " ".join(each for each in overrides if not each.startswith(ASIDE))
        trained = " ".join(each for each in described.split() if not each.startswith("evaluation."))
        updates = configuration["schedule"]["updates"]
        value, first = 0.0, 0
        checkpoint = folder / "checkpoints" / "last.pt"
        if "resume" in configuration:
            source = Path(configuration["resume"])
            first, value = (float(each) for each in (source / "checkpoints" / "last.pt").read_text().split())
        elif checkpoint.exists():
            assert configuration.get("overwrite"), "a run folder was used again"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self._note(f"start {first:g} {described}")
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        for update in range(int(first), updates):
            digest = hashlib.sha256(f"{trained} {update}".encode()).digest()
            value += digest[0] / 255
            self._note(f"step {update} {described}")
            temporary = checkpoint.with_suffix(f".{os.getpid()}")
            temporary.write_text(f"{update + 1} {value!r}")
            os.replace(temporary, checkpoint)
            time.sleep(self.pause)
            if update >= 4:
                self._misbehave(overrides, folder)
        self._summarise(configuration, value / updates, folder)
        self._note(f"end {updates} {described}")

    def _misbehave(self, overrides, folder):
        mark = folder.with_suffix(".once")
        if self.once and mark.exists():
            return
        if set(self.failing) & set(overrides):
            mark.touch()
            raise ValueError("the loss is not finite")
        if set(self.dying) & set(overrides):
            mark.touch()
            os.kill(os.getpid(), 9)

    def _note(self, line):
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")

    def _summarise(self, configuration, value, folder):
        result = {"per_task": {2: -6.0 + value, 6: -5.0 + value}, "per_episode": [-9.0, -6.0, -5.5 + value]}
        result |= {
            "ci95": [-6.0 + value, -5.0 + value],
            "context_noise": value if configuration["seed"] else None,
        }
        protocols = configuration.get("evaluation", {}).get("protocols", ["np"])
        returns = {split: dict.fromkeys(protocols, result) for split in ("test", "train")}
        summary = build_summary(
            env=configuration["env"],
            method=configuration["method"],
            policy_loss=configuration["policy_loss"]["name"],
            preset=configuration["preset"],
            seed=configuration["seed"],
            updates=configuration["schedule"]["updates"],
            wall_time_s=36.0,
            dataset={"tasks": configuration["tasks"], "recipe": self.dataset, "seed": 0, "counts": {}},
            returns=returns,
            random={"test": -20.0, "train": -20.0},
            optimum={"test": -3.855, "train": -3.858},
            extra={"codebook": {"dead_codes": 1}} if configuration["method"] == "ctmrl" else {},
        )
        write_summary(summary, folder / "summary.json")
