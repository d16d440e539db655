"""``deterministic=true``: refused with the command to type, or the same bits whatever is switched off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tiny_experiments import tiny_config

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training import deterministic
from ctmrl_torchrl.training.experiment import check_before_building, run_experiment

CPU = torch.device("cpu")


@pytest.fixture
def started_so(monkeypatch):
    """As in a process that has been started with the settings."""
    for name, value in deterministic.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")


def test_a_process_with_other_instructions_is_told_what_to_type(dataset_root, tmp_path, monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    settings = "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE"
    with pytest.raises(ConfigError, match=f"field deterministic: .*Run: {settings} .* deterministic=true"):
        run_experiment(tiny_config(dataset_root, tmp_path / "run", deterministic=True))
    assert list(tmp_path.iterdir()) == []


def test_settings_that_came_too_late_do_not_count(started_so, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ConfigError, match="was started with other instructions"):
        deterministic.check_deterministic(CPU, 1)


def test_one_thread_and_deterministic_kernels(started_so, dataset_root, tmp_path):
    check_before_building(tiny_config(dataset_root, tmp_path, deterministic=True))
    with pytest.raises(
        ConfigError, match="config field threads: got 2, allowed is 1 with deterministic=true"
    ):
        deterministic.check_deterministic(CPU, 2)
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        deterministic.check_deterministic(torch.device("cuda"), 1)
    deterministic.use_deterministic_algorithms(True)
    assert torch.are_deterministic_algorithms_enabled()
    deterministic.use_deterministic_algorithms(False)
    assert not torch.are_deterministic_algorithms_enabled()


DIGEST = """
import hashlib, sys, torch
from ctmrl_torchrl import run
root = sys.argv[1]
run(["preset=quick", "dataset=smoke", "schedule.updates=60", "evaluation.every=0", "evaluation.protocols=[np]",
     "evaluation.final_repeats=1", "output.logger=none", "output.progress=false", "output.figures=false",
     "deterministic=true", f"dataset.root={root}/data", f"run_dir={root}/run"])
digest = hashlib.sha256()
state = torch.load(f"{root}/run/checkpoints/last.pt", weights_only=True)["state"]["loss"]
for name, value in sorted(state.items()):
    digest.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
print("DIGEST", digest.hexdigest())
"""
#: what makes libraries behave as on an earlier processor
EARLIER = {
    "without AVX-512": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "without AVX": {
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4",
    },
}


@pytest.mark.slow
def test_the_bits_are_those_of_an_earlier_processor(tmp_path):
    found = {}
    for name, changes in ({"as it is": {}} | EARLIER).items():
        environment = os.environ | deterministic.ENVIRONMENT | changes
        command = [sys.executable, "-W", "ignore", "-c", DIGEST, str(tmp_path / name.replace(" ", "-"))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[name] = next(line for line in done.stdout.splitlines() if line.startswith("DIGEST"))
    assert len(set(found.values())) == 1, found
