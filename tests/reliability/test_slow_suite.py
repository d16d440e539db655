"""Kills at random moments, corruptions, full disks: slow, run by ``pytest -m slow tests/reliability``.

Runs are forked off this process, which has imported everything: a kill then costs no start-up.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sameness import assert_same
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.data.behaviour import sac_training
from ctmrl_torchrl.errors import USER_ERRORS
from ctmrl_torchrl.evaluation.summary import load_summary
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.validate import validate_config

pytestmark = pytest.mark.slow
CHANGES = {"output.figures": True, "output.checkpoint_every": 2, "evaluation.every": 5}
FOREIGN = {"thesis.txt": "years of work", "figures/holiday.png": "a picture", "run.replaced/notes": "mine"}


def forked(action):
    """Start the action in a process of its own; exit status 0, 2 for a user's error, 1 for any other."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        torch.set_num_threads(1)
        action()
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    except USER_ERRORS:
        status = 2
    finally:
        os._exit(status)


def killed_after(seconds, action, number=signal.SIGKILL):
    """Send the process a signal after some time; returns its exit status."""
    child, start = forked(action), time.monotonic()
    while time.monotonic() - start < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished(action):
    return os.waitstatus_to_exitcode(os.waitpid(forked(action), 0)[1])


def outcome(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    summary = json.loads((run_dir / "summary.json").read_text())
    state.pop("seconds")
    return state, {**summary, "wall_time_s": None}, metric_rows(run_dir)


def put(folder):
    for name, text in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def kept(folder):
    return all((folder / name).read_text() == text for name, text in FOREIGN.items())


def seconds_of(action):
    start = time.monotonic()
    assert finished(action) == 0
    return time.monotonic() - start


@pytest.fixture(scope="module", autouse=True)
def _often():
    """Collections write a checkpoint after every round."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sac_training, "CHECKPOINT_SECONDS", 0.0)
    yield
    patch.undo()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_run_ended_at_random_moments_goes_on_bit_for_bit(number, tmp_path, count):
    """From an empty folder: collection, training, checkpoints, meta-tests, figures."""
    source, ends, stages = random.Random(int(number)), 0, {}
    reference = tmp_path / "reference"
    whole = seconds_of(lambda: run_experiment(tiny_config(tmp_path / "data", reference, CHANGES)))
    expected, data = outcome(reference), next((tmp_path / "data").iterdir()).name
    checksums = TaskDataset.load(tmp_path / "data" / data).manifest.checksums
    runs = 0
    while ends < 30 and runs < 60:
        root, run = tmp_path / f"data-{runs}", tmp_path / f"run-{runs}"
        put(run)
        status, runs = None, runs + 1
        while status != 0:  # several ends of one and the same run
            resume = str(run) if (run / "checkpoints" / "last.pt").exists() else None
            fields = {"resume": resume} if resume else {"overwrite": (run / "config.yaml").exists()}
            config = tiny_config(root, run, CHANGES, **fields)
            moment, start = source.uniform(0, 1.1 * whole), time.monotonic()
            status = killed_after(moment, lambda config=config: run_experiment(config), number)
            assert status in (0, -signal.SIGKILL, 143, -signal.SIGTERM), status
            assert kept(run)
            if status == 0:
                whole = min(whole, time.monotonic() - start) if resume is None else whole
                break
            ends += 1
            stage = "training" if (run / "config.yaml").exists() else "collection"
            stage = "end" if (run / "summary.json").exists() else stage
            stages[stage] = stages.get(stage, 0) + 1
        assert_same(outcome(run), expected)
        assert TaskDataset.load(root / data).manifest.checksums == checksums
        shutil.rmtree(root), shutil.rmtree(run)
    count(f"{signal.Signals(number).name}: {ends} ends of {runs} runs ({stages}), 0 losses, all bit for bit")
    assert ends >= 30


def test_overwriting_killed_at_random_moments_keeps_a_whole_run(dataset_root, tmp_path, count):
    source, kills = random.Random(1), 0
    first = tmp_path / "first"
    put(first)
    config = tiny_config(dataset_root, first, CHANGES)
    whole = seconds_of(lambda: run_experiment(config))
    other = tiny_config(dataset_root, tmp_path / "other", CHANGES, seed=1)
    assert finished(lambda: run_experiment(other)) == 0
    old, new = outcome(first), outcome(tmp_path / "other")
    attempts = 0
    while kills < 25 and attempts < 50:
        run = tmp_path / f"run-{attempts}"
        shutil.copytree(first, run)
        attempts += 1
        config = tiny_config(dataset_root, run, CHANGES, seed=1, overwrite=True)
        for _ in range(2):
            start = time.monotonic()
            status = killed_after(source.uniform(0, whole), lambda config=config: run_experiment(config))
            kills += status == -signal.SIGKILL
            if status == 0:
                whole = min(whole, time.monotonic() - start)
            summaries = [place / "summary.json" for place in (run, run / "replaced-run")]
            found = [load_summary(summary) for summary in summaries if summary.exists()]
            assert found and kept(run)
            assert all({**each, "wall_time_s": None} in (old[1], new[1]) for each in found)
        assert finished(lambda config=config: run_experiment(config)) == 0
        assert_same(outcome(run), new)
        assert kept(run) and not (run / "replaced-run").exists()
        shutil.rmtree(run)
    count(f"overwriting: {kills} kills at random moments, 0 losses")
    assert kills >= 25


def corrupt(source, file, others):
    """One of: a bit flipped, cut, zeros, noise, emptied, another file in its place, gone."""
    content = bytearray(file.read_bytes())
    kind = source.choice(["flip", "flip", "cut", "zeros", "noise", "empty", "swap", "gone"])
    if kind == "flip":
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    elif kind == "cut":
        content = content[: source.randrange(len(content))]
    elif kind in ("zeros", "noise"):
        start = source.randrange(len(content))
        size = min(len(content) - start, source.randrange(1, 400))
        content[start : start + size] = bytes(size) if kind == "zeros" else source.randbytes(size)
    elif kind == "empty":
        content = bytearray()
    elif kind == "swap":
        content = bytearray(source.choice(others).read_bytes())
    if kind == "gone":
        file.unlink()
    else:
        file.write_bytes(content)
    return kind


@pytest.mark.parametrize(
    ("what", "times"), [("checkpoints/last.pt", 60), ("run folder", 60), ("dataset", 40)]
)
def test_corruptions_are_refused_or_harmless(what, times, dataset_root, tmp_path, count):
    """A run goes on from its checkpoint and data: to the same bits, or it is refused with one clear error."""
    source, accepted, refused = random.Random(2), 0, 0
    data = next(dataset_root.iterdir())
    first = tmp_path / "first"
    run_experiment(tiny_config(dataset_root, first, CHANGES))
    expected = outcome(first)
    for attempt in range(times):
        run, root = tmp_path / f"run-{attempt}", tmp_path / f"data-{attempt}"
        shutil.copytree(first, run), shutil.copytree(data, root / data.name)
        place = root if what == "dataset" else run
        files = sorted(file for file in place.rglob("*") if file.is_file() and file.stat().st_size)
        file = source.choice(files) if what != "checkpoints/last.pt" else run / what
        kind = corrupt(source, file, [each for each in files if each != file])
        config = tiny_config(root, run, CHANGES, resume=str(run))
        try:
            run_experiment(config)
        except USER_ERRORS as error:
            refused += 1
            assert len(str(error)) < 2000, (file, kind)
        else:
            accepted += 1
            state, summary, _ = outcome(run)
            assert_same((state, summary), expected[:2], f"{file} {kind}")
        shutil.rmtree(run), shutil.rmtree(root)
    count(
        f"{times} corruptions of {what}: {refused} refused, {accepted} harmless, 0 accepted with other results"
    )
    assert what == "run folder" or accepted <= times / 10


NAMES = (
    "env",
    "method",
    "schedule.updates",
    "batch.tasks",
    "encoder.hidden",
    "run_dir",
    "context.length",
    "seed",
    "optimizer.policy_rate",
    "evaluation.protocols",
    "dataset.recipe",
    "overwrite",
    "device",
    "policy_loss",
)


def test_configurations_of_any_text_are_accepted_or_refused(count):
    tried = []

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(NAMES), st.text(max_size=12) | st.integers().map(str) | st.floats().map(str))
    def check(name, value):
        tried.append(value)
        try:
            validate_config(compose_config([f"{name}={value}"]))
        except USER_ERRORS as error:
            assert isinstance(error, ConfigError) and "\nTraceback" not in str(error)

    check()
    count(f"{len(tried)} configurations of any text: accepted or refused by ConfigError, 0 raw errors")


FULL_DISK = """
import sys; sys.path.insert(0, {tests!r})
from tiny_experiments import tiny_config
from ctmrl_torchrl.errors import USER_ERRORS
from ctmrl_torchrl.training import experiment
experiment._BYTES_BESIDE = -10**9  # as if there had been room at the start
try: experiment.run_experiment(tiny_config({root!r}, {run!r}, {{"output.checkpoint_every": 1}}))
except USER_ERRORS as error: print("REFUSED", type(error).__name__, str(error)[:200]); sys.exit(2)
"""


@pytest.mark.parametrize("size", ["16k", "60k", "90k", "120k"])
def test_a_disk_that_fills_up_is_one_clear_error(size, dataset_root, tmp_path, count):
    code = FULL_DISK.format(
        tests=str(Path(__file__).parents[1] / "training"), root=str(dataset_root), run=f"{tmp_path}/disk/run"
    )
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size={size} tmpfs {tmp_path}/disk && exec {sys.executable} -W ignore -c "$0"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount, code], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no private mounts here")
    assert done.returncode == 2 and "REFUSED" in done.stdout, done.stderr[-500:]
    count(f"disk of {size} filled up: {done.stdout.split()[1]}")


def test_two_processes_at_once_make_one_run(dataset_root, tmp_path, count):
    refused = 0
    for attempt in range(10):
        run = tmp_path / f"run-{attempt}"
        config = tiny_config(dataset_root, run, CHANGES)
        children = [forked(lambda config=config: run_experiment(config)) for _ in range(2)]
        statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert statuses == [0, 2], statuses
        refused += 1
        assert load_summary(run / "summary.json")["updates"] == 20
    count(f"two processes in one folder: {refused} times one was refused, 10 whole runs")
