"""The first updates of the shipped methods stay, bit for bit, what they were when they were recorded.

``python tests/training/test_first_updates.py`` records them anew: only after a change that is meant to
change them. Other processors round otherwise; there the numbers are compared within a tolerance.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetManifest, TaskDataset
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import prepare

RECORD = Path(__file__).parent / "first_updates.json"
UPDATES = 50
#: name of the record to what is put on the command line; the sizes are those of the preset
CASES = {
    "ctmrl, the first of 4500": ["method=ctmrl"],
    "ctmrl, all phases": ["method=ctmrl", f"schedule.updates={UPDATES}", "representation.kmeans_epochs=10"],
    "ctmrl_released, the first of 4500": ["method=ctmrl_released", "context.length=256"],
    "ctmrl_released, all phases": [
        "method=ctmrl_released",
        "context.length=256",
        f"schedule.updates={UPDATES}",
        "representation.kmeans_epochs=10",
    ],
    "ctmrl_relabel, all phases": [
        "method=ctmrl_relabel",
        f"schedule.updates={UPDATES}",
        "representation.kmeans_epochs=10",
    ],
}


def processor() -> str:
    """What decides how sums are rounded."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {_model()}"


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    return ", ".join(named.get(key, "?").strip() for key in ("vendor_id", "cpu family", "model"))


def random_walks(snapshots=3, episodes=6):
    """Data of all tasks that hold no behaviour, and come from one generator."""
    tasks = make_task_set("point_robot")
    generator, horizon = torch.Generator().manual_seed(0), tasks.family.horizon
    shape = (tasks.n_tasks, snapshots, episodes, horizon)
    action = 2 * torch.rand(*shape, 2, generator=generator) - 1
    following = (0.1 * action).cumsum(-2)
    goal = tasks.parameters.float()[:, None, None, None]
    end = torch.zeros(*shape, 1, dtype=torch.bool)
    end[..., -1, :] = True
    task, snapshot, _, _ = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    rows = TensorDict(
        {
            "observation": following - 0.1 * action,
            "action": action,
            "next": {
                "observation": following,
                "reward": -(following - goal).norm(dim=-1, keepdim=True),
                "done": end,
                "terminated": torch.zeros_like(end),
                "truncated": end.clone(),
            },
            "task_id": task,
            "snapshot_id": snapshot,
            "trajectory_id": torch.arange(task.numel() // horizon).view(shape[:3])[..., None].expand(shape),
        },
        shape,
    )
    manifest = DatasetManifest(env=tasks.name, preset=tasks.preset, horizon=horizon, tasks=tasks.to_dict())
    return TaskDataset.from_tensordict(rows.flatten(), manifest)


def first_updates(overrides, folder):
    """Losses of every update as exact numbers, and a checksum of all parameters at the end."""
    fixed = ["preset=quick", f"dataset.path={folder / 'data'}", f"run_dir={folder / 'run'}", "device=cpu"]
    fixed += ["evaluation.every=0", "output.logger=none", "output.progress=false", "output.log_every=1000"]
    trainer = prepare(compose_config([*overrides, *fixed])).trainer
    trainer.begin()
    updates = []
    for _ in range(UPDATES):
        losses = trainer.update(trainer.next_batch())
        trainer.update_count += 1
        updates.append({name: value.item() for name, value in sorted(losses.items())})
    checksum = hashlib.sha256()
    for part in (trainer.loss.context_encoder, trainer.loss.representation, trainer.loss.policy):
        for value in part.parameters():
            checksum.update(value.detach().numpy().tobytes())
    return {"updates": updates, "parameters": checksum.hexdigest()}


@pytest.mark.parametrize("case", CASES)
def test_the_first_updates_are_what_they_were(case, tmp_path):
    random_walks().save(tmp_path / "data")
    record = json.loads(RECORD.read_text())
    found, expected = first_updates(CASES[case], tmp_path), record["cases"][case]
    if record["processor"] == processor():
        assert found == expected
        return
    for number, (losses, recorded) in enumerate(zip(found["updates"], expected["updates"], strict=True)):
        assert list(losses) == list(recorded)
        if number < 5:  # later, roundings have grown
            assert losses == pytest.approx(recorded, rel=1e-3, abs=1e-5), number


def main() -> None:
    """Write the record."""
    cases = {}
    for case, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            random_walks().save(Path(folder) / "data")
            cases[case] = first_updates(overrides, Path(folder))
    RECORD.write_text(json.dumps({"processor": processor(), "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
