"""The end of a run holds: pictures, numbers that are not finite, other seeds, disks, damaged files."""

from __future__ import annotations

import copy
import json
import random
import resource

import matplotlib
import pytest
import torch
from tiny_experiments import metric_rows, random_dataset, tiny_config

from ctmrl_torchrl.cli import main
from ctmrl_torchrl.envs import TaskSimulationError, make_task_set
from ctmrl_torchrl.errors import USER_ERRORS
from ctmrl_torchrl.evaluation.summary import load_summary
from ctmrl_torchrl.evaluation.summary_contract import SummaryError
from ctmrl_torchrl.rules import ConfigError, NotFiniteError
from ctmrl_torchrl.storage import StorageError
from ctmrl_torchrl.training import memory, report
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ctmrl_torchrl.training.experiment import SeedsError, check_before_building, run_experiment, run_seeds
from ctmrl_torchrl.training.memory import OutOfMemoryError
from ctmrl_torchrl.training.tester import MetaTester
from ctmrl_torchrl.training.trainer import MetaTrainer

SHORT = {"schedule.updates": 4, "evaluation.every": 0, "output.log_every": 2}


def test_a_picture_that_cannot_be_drawn_is_left_out(dataset_root, tmp_path, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("no LaTeX here")

    monkeypatch.setattr(report.figures, "plot_adaptation", broken)
    run_experiment(tiny_config(dataset_root, tmp_path, SHORT | {"output.figures": True}))
    drawn = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {"learning.png", "data.png", "context_map.png"} <= drawn and "adaptation.png" not in drawn
    assert (tmp_path / "summary.json").exists() and (tmp_path / "agent").is_dir()


@pytest.mark.ci
def test_figures_are_the_same_under_any_settings_of_the_users(dataset_root, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_experiment(tiny_config(dataset_root, first, SHORT | {"output.figures": True}))
    settings = {
        "text.usetex": True,
        "font.size": 30.0,
        "axes.facecolor": "red",
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(settings):
        run_experiment(tiny_config(dataset_root, second, SHORT | {"output.figures": True}))
        assert matplotlib.rcParams["text.usetex"] is True
    for name in ("adaptation.png", "context_map.png", "data.png"):
        assert (first / "figures" / name).read_bytes() == (second / "figures" / name).read_bytes(), name


def broken_parameter(trainer):
    with torch.no_grad():
        next(trainer.loss.context_encoder.parameters()).view(-1)[0] = torch.nan


@pytest.mark.parametrize(("update", "found_at", "kept"), [(3, 4, 2), (6, 6, 4), (12, 12, 10)])
def test_a_parameter_that_is_not_finite_stops_at_the_next_row_of_the_log_or_checkpoint(
    update, found_at, kept, dataset_root, tmp_path, monkeypatch
):
    """Rows are at 4, 8 and 12, checkpoints at every second update: none of them is written from then on."""
    make_step = MetaTrainer.update

    def breaking(self, batch):
        losses = make_step(self, batch)
        if self.update_count + 1 == update:
            broken_parameter(self)
        return losses

    monkeypatch.setattr(MetaTrainer, "update", breaking)
    config = tiny_config(dataset_root, tmp_path, {"schedule.updates": 12, "output.checkpoint_every": 2})
    with pytest.raises(NotFiniteError, match=f"After {found_at} updates .*(context_encoder|loss)"):
        run_experiment(config)
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pt", {})
    assert state["update"] == kept
    assert all(value.isfinite().all() for value in state["loss"].values())
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("every", "culprit"), [(4, "eval/test/codes/return"), (0, "test return under codes")]
)
def test_a_return_that_is_not_finite_stops_the_run(every, culprit, dataset_root, tmp_path, monkeypatch):
    run = MetaTester.run

    def broken(self, *args):
        runs = run(self, *args)
        runs["codes"]["returns"][0, 0, -1] = torch.nan
        return runs

    monkeypatch.setattr(MetaTester, "run", broken)
    with pytest.raises(NotFiniteError, match=culprit):
        run_experiment(tiny_config(dataset_root, tmp_path, SHORT | {"evaluation.every": every}))
    assert not (tmp_path / "summary.json").exists()


def test_a_seed_that_breaks_down_does_not_take_the_others_along(dataset_root, tmp_path, monkeypatch):
    configs = [
        tiny_config(dataset_root, tmp_path / str(seed), {"schedule.updates": 12}, seed=seed)
        for seed in range(3)
    ]
    alone = tiny_config(dataset_root, tmp_path / "alone", {"schedule.updates": 12}, seed=2)
    expected = run_experiment(alone)
    record = MetaTrainer.record

    def breaking(self, losses, bar):
        if self.identity["seed"] == 1 and self.update_count == 5:
            broken_parameter(self)
        record(self, losses, bar)

    monkeypatch.setattr(MetaTrainer, "record", breaking)
    with pytest.raises(SeedsError, match="1 of 3 seeds failed .seed 1: After 6 updates"):
        run_seeds(configs)
    summaries = [tmp_path / str(seed) / "summary.json" for seed in range(3)]
    assert [file.exists() for file in summaries] == [True, False, True]
    found = json.loads(summaries[2].read_text())["returns"]["test"]["codes"]
    assert found["mean"] == pytest.approx(expected["returns"]["test"]["codes"]["mean"], rel=1e-3)
    assert load_checkpoint(tmp_path / "1" / "checkpoints" / "last.pt", {"seed": 1})["update"] == 5


def test_a_seed_whose_meta_test_fails_does_not_take_the_others_along(dataset_root, tmp_path, monkeypatch):
    configs = [tiny_config(dataset_root, tmp_path / str(seed), SHORT, seed=seed) for seed in (0, 1)]
    run, calls = MetaTester.run, []

    def failing(self, *args):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("the simulator has gone")
        return run(self, *args)

    monkeypatch.setattr(MetaTester, "run", failing)
    with pytest.raises(SeedsError, match="seed 0: the simulator has gone"):
        run_seeds(configs)
    assert not (tmp_path / "0" / "summary.json").exists() and (tmp_path / "1" / "summary.json").exists()


@pytest.fixture(scope="module")
def checkpoint(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    run_experiment(tiny_config(dataset_root, run_dir, SHORT))
    return run_dir / "checkpoints" / "last.pt"


def leaves(state, path=()):
    if isinstance(state, dict):
        for name, value in state.items():
            yield from leaves(value, (*path, name))
    elif isinstance(state, list):
        for index, value in enumerate(state):
            yield from leaves(value, (*path, index))
    else:
        yield path, state


def changed(state, path, value):
    state = copy.deepcopy(state)
    place = state
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return state


def test_every_key_shape_and_dtype_is_checked_at_resume(checkpoint, dataset_root, tmp_path, count):
    trainer = build_experiment(tiny_config(dataset_root, tmp_path, SHORT)).trainer
    state, source, tried = load_checkpoint(checkpoint, {}), random.Random(0), 0
    trainer.load_state_dict(state)
    for name in state:
        fewer = {other: value for other, value in state.items() if other != name}
        if name == "targets":  # a finished run needs them no more, and earlier versions did not keep them
            trainer.load_state_dict(fewer)
            fewer["update"] -= 1
        for broken in (fewer, {**state, f"{name}_2": 0}, {**state, name: "text"}):
            refused(trainer, broken, tmp_path)
            tried += 1
    tensors = [
        (path, value)
        for path, value in leaves(state)
        if isinstance(value, torch.Tensor) and path[0] != "recent"
    ]
    for path, value in source.sample(tensors, 25):
        fine = path[0] != "parts"
        refused(
            trainer,
            changed(state, path, value[None].repeat_interleave(2, 0)),
            tmp_path,
            fine and str(path[-1]),
        )
        if value.is_floating_point():
            refused(trainer, changed(state, path, value.double()), tmp_path, fine and str(path[-1]))
        tried += 2
    count(f"resume: {tried} states with a missing, unknown or changed entry, 0 accepted")


def refused(trainer, state, folder, named=""):
    save_checkpoint(folder / "broken.pt", state, trainer.identity)
    with pytest.raises(CheckpointError, match="broken.pt does not fit this run") as error:
        trainer.resume(folder / "broken.pt")
    assert not named or named in str(error.value)


def test_a_full_disk_keeps_the_earlier_checkpoint(checkpoint, tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"weights": torch.zeros(10)}, {})
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises((StorageError, OSError), match=r"last\.pt|too large"):
            save_checkpoint(file, {"weights": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_a_disk_without_room_for_the_agent_is_found_before_training(dataset_root, tmp_path, monkeypatch):
    from ctmrl_torchrl import storage

    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ConfigError, match=r"run_dir: .* needs .* MB, but the disk at .* has 1 kB free"):
        run_experiment(tiny_config(dataset_root, tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.hidden": [1_000_000_000]},
            r"encoder.hidden=\[1000000000\]: the run would need at least .* GB",
        ),
        ({"context.length": 100_000}, "context.length: got 100000, allowed is at most 4096: .* GB of memory"),
        ({"context.trajectories": [1, 10**9]}, "context.trajectories=.* the run would need at least .* GB"),
        ({"batch.transitions": 10**9}, "batch.transitions=1000000000: the run would need at least"),
        (
            {"encoder.head_hidden": [10**9]},
            r"encoder.head_hidden=\[1000000000\]: the run would need at least",
        ),
        ({"evaluation.final_repeats": 10**9}, "evaluation.final_repeats=1000000000: the run would need at"),
        ({"evaluation.repeats": 10**9}, "evaluation.repeats=1000000000: the run would need at least"),
        (
            {"evaluation.protocols": ["np"], "evaluation.episodes": 10**9},
            "evaluation.episodes=1000000000: the run would need at least",
        ),
        ({"representation.kmeans_contexts": 10**10}, "representation.kmeans_contexts=10000000000: the run"),
        ({"threads": 10**9}, "config field threads: got 1000000000, allowed is at most"),
        ({"device": "cuda:99"}, "config field device: got 'cuda:99'"),
        ({"dataset.root": "/dev/null/sets"}, "dataset.root: .*/dev/null is a"),
    ],
)
def test_what_cannot_fit_is_refused_before_the_work(changes, message, dataset_root, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_before_building(tiny_config(dataset_root, tmp_path / "run", changes))
    assert not list(tmp_path.iterdir())


def test_the_estimate_is_close_to_what_networks_take(dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path, {"encoder.hidden": [300, 300], "policy_loss.hidden": [8]})
    encoder = build_experiment(config).loss.context_encoder
    real = 16 * sum(value.numel() for value in encoder.parameters())
    assert 0.8 * real < memory.estimate_memory(config).parameters < 1.2 * real


def test_a_horizon_that_the_data_claim_is_part_of_the_estimate(tmp_path):
    task_set = make_task_set("point_robot")
    dataset = random_dataset(task_set)
    dataset.manifest = dataset.manifest.replace(horizon=2**31 - 1, env="unknown")
    place = {"dataset.path": str(dataset.save(tmp_path / "data")), "evaluation.protocols": []}
    with pytest.raises(ConfigError, match="context.trajectories=.* the run would need at least .* GB"):
        run_experiment(tiny_config(tmp_path, tmp_path / "run", place, env="dataset"))
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
)
def test_memory_that_runs_out_is_one_clear_error(error, dataset_root, tmp_path, monkeypatch):
    def fail(self, batch):
        raise error

    monkeypatch.setattr(MetaTrainer, "update", fail)
    with pytest.raises(OutOfMemoryError, match="memory has run out .* needs at least .* GB"):
        run_experiment(tiny_config(dataset_root, tmp_path))
    assert OutOfMemoryError in USER_ERRORS


DAMAGED = ["", "{", "[1]", "null", b"\xed\xa0\x80", b"\xff\xfe", "[" * 100_000, '{"env": 1}', "9" * 5000]


@pytest.mark.parametrize("content", [*DAMAGED, '{"seed": 1e999}'])
def test_damaged_summaries_are_one_clear_error(content, tmp_path, capsys):
    file = tmp_path / "summary.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SummaryError, match="summary.json"):
        load_summary(file)
    assert main(["table", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("ctmrl: ") and "Traceback" not in shown and shown.count("\n") <= 2


def test_all_errors_of_users_are_told_without_a_traceback():
    own = {NotFiniteError, SeedsError, StorageError, CheckpointError, TaskSimulationError}
    assert own <= set(USER_ERRORS)


def test_a_damaged_log_of_an_earlier_part_does_not_stop_a_run(dataset_root, tmp_path):
    run_experiment(tiny_config(dataset_root, tmp_path, SHORT | {"output.checkpoint_every": 2}))
    (tmp_path / "metrics.csv").write_bytes(b"\x00\xff,,,\n2,a\n4,loss/loss_actor,0.1\n")
    run_experiment(
        tiny_config(dataset_root, tmp_path, SHORT | {"output.figures": True}, resume=str(tmp_path))
    )
    assert metric_rows(tmp_path) == [["4", "loss/loss_actor", "0.1"]]


def test_a_run_folder_that_is_lost_is_one_clear_error(dataset_root, tmp_path, monkeypatch):
    """As by a network disk that goes away: nothing is written to what is left in its place."""
    update = MetaTrainer.update

    def losing(self, batch):
        if self.update_count == 5:
            (tmp_path / "run").rename(tmp_path / "lost")
        return update(self, batch)

    monkeypatch.setattr(MetaTrainer, "update", losing)
    with pytest.raises(StorageError, match=r"metrics.csv is gone: .*run"):
        run_experiment(tiny_config(dataset_root, tmp_path / "run", {"output.checkpoint_every": 1}))
    assert [place.name for place in tmp_path.iterdir()] == ["lost"]
    assert load_checkpoint(tmp_path / "lost" / "checkpoints" / "last.pt", {})["update"] == 5
