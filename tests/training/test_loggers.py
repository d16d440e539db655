"""Each logger gets configuration, numbers, figures and films; each library runs offline."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.loggers import LOGGERS, RunLogger, flat_configuration, require_logger
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.report import log_pictures

CONFIG = {"seed": 3, "encoder": {"hidden": [8, 8], "pool": "mean"}, "compile": False, "resume": None}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A figure and a film of two frames."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    frames = [Image.fromarray(np.full((12, 16, 3), shade, dtype=np.uint8)) for shade in (30, 220)]
    frames[0].save(folder / "learning.png")
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:], duration=50)
    return folder


def log_a_run(name: str, run_dir: Path, pictures: Path) -> None:
    run_dir.mkdir(parents=True)
    logger = LOGGERS.get(name).open(run_dir, "log")
    logger.configuration(CONFIG)
    log = MetricsLog(run_dir / "metrics.csv", logger=logger)
    log.log(3, {"eval/test/np/return": 0.5})
    log_pictures(logger, pictures, 3)
    log.close()


def test_tensorboard(tmp_path, pictures):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    log_a_run("tensorboard", tmp_path / "run", pictures)
    events = EventAccumulator(str(tmp_path / "run" / "log")).Reload()
    (event,) = events.Scalars("eval/test/np/return")
    assert (event.step, event.value) == (3, 0.5)
    drawn = {tag: events.Images(tag)[0].encoded_image_string[:6] for tag in events.Tags()["images"]}
    assert drawn == {"learning": b"\x89PNG\r\n", "film": (pictures / "film.gif").read_bytes()[:6]}
    everything = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run" / "log")).Reload()
    (settings,) = everything.PluginRunToTagToContent("hparams").values()
    assert any(b"encoder.hidden" in content for content in settings.values())


@pytest.mark.slow
def test_mlflow_keeps_a_sqlite_store_beside_the_run(tmp_path, pictures, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    log_a_run("mlflow", tmp_path / "runs" / "first", pictures)
    log_a_run("mlflow", tmp_path / "runs" / "second", pictures)  # the first one has been ended
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ctmrl_torchrl")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second"}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params["encoder.hidden"] == "[8, 8]" and run.data.params["seed"] == "3"
        (metric,) = client.get_metric_history(run.info.run_id, "eval/test/np/return")
        assert (metric.step, metric.value) == (3, 0.5)
        kept = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
        assert kept == {"figures/learning.png", "figures/film.gif"}
    # Nothing was left in the working folder.
    assert {each.name for each in tmp_path.iterdir()} == {"drawn", "runs"}


@pytest.mark.slow
def test_mlflow_obeys_the_environment(tmp_path, pictures, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.chdir(tmp_path)
    LOGGERS.get("mlflow").open(tmp_path / "runs" / "first", "log").close()
    assert mlflow.MlflowClient(store).get_experiment_by_name("mine") is not None
    assert not (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.slow
def test_wandb_offline(tmp_path, pictures, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_a_run("wandb", tmp_path / "run", pictures)
    (kept,) = (tmp_path / "run" / "log" / "wandb").glob("offline-run-*")
    wanted = (b"encoder.hidden", b"eval/test/np/return")
    for _ in range(300):  # wandb's own process writes the file
        written = next(kept.glob("*.wandb")).read_bytes()
        if all(text in written for text in wanted):
            break
        time.sleep(0.1)
    assert [text for text in wanted if text not in written] == []
    media = {file.suffix for file in kept.rglob("media/**/*") if file.is_file()}
    assert media == {".png", ".gif"}


def test_no_logger_needs_nothing(tmp_path, pictures):
    log_a_run("none", tmp_path / "run", pictures)
    assert {each.name for each in (tmp_path / "run").iterdir()} == {"metrics.csv"}


def test_a_logger_of_the_users_own_is_a_choice(tmp_path, pictures):
    said = []

    class JsonLines(RunLogger):
        def __init__(self):
            """It keeps everything in a list."""

        @classmethod
        def open(cls, run_dir, name):
            return cls()

        def configuration(self, config):
            said.append(json.dumps(flat_configuration(config)))

        def numbers(self, values, step):
            said.append(json.dumps({"step": step, **values}))

        def close(self):
            said.append("end")

    LOGGERS.register("json_lines", JsonLines)
    try:
        require_logger("json_lines", 3)
        log_a_run("json_lines", tmp_path / "run", pictures)
    finally:
        LOGGERS.unregister("json_lines")
    assert said[1:] == ['{"step": 3, "eval/test/np/return": 0.5}', "end"]


def test_a_picture_that_a_logger_cannot_take_is_a_warning(tmp_path, pictures):
    class Refusing(LOGGERS.get("none")):
        seen = []

        def picture(self, path, step):
            self.seen.append(path.name)
            raise RuntimeError("no network")

    log_pictures(Refusing(), pictures, 3)
    assert Refusing.seen == ["film.gif", "learning.png"]


def test_loggers_that_cannot_be_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ctmrl_torchrl\[loggers\]'"):
        require_logger("wandb")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"ctmrl train -m seed=0,1"):
        require_logger("mlflow", 2)
    require_logger("mlflow", 1)


def test_values_that_are_no_scalars_are_logged_as_texts():
    assert flat_configuration(CONFIG) == {
        "seed": 3, "encoder.hidden": "[8, 8]", "encoder.pool": "mean", "compile": False, "resume": "None",
    }  # fmt: skip
