"""TorchRL's loggers with what a run gives them: its configuration, numbers, figures and films."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torchrl.record.loggers import Logger, MLFlowLogger, TensorboardLogger, WandbLogger

from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import require

__all__ = ["LOGGERS", "RunLogger", "flat_configuration", "require_logger"]

#: what ``output.logger`` chooses from
LOGGERS: Registry[type[RunLogger]] = Registry("logger")


class RunLogger:
    """A TorchRL logger that also takes the configuration, figures and films of a run.

    A logger of your own is a subclass with :meth:`open`, registered by ``LOGGERS.register("name", MyLogger)``.

    Args:
        logger (Logger): gets the configuration (``log_hparams``) and the numbers (``log_metrics``).

    Attributes:
        package (str or None): the package it needs besides this library's own.
        several (bool): whether several can be open in one process, as ``seeds=[...]`` needs.

    Examples:
        >>> import tempfile
        >>> from torchrl.record import CSVLogger
        >>> log = RunLogger(CSVLogger("run", tempfile.mkdtemp()))
        >>> log.numbers({"loss/loss_actor": 0.5}, step=3)
        >>> log.close()
    """

    package: ClassVar[str | None] = None
    several: ClassVar[bool] = True

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    @classmethod
    def open(cls, run_dir: Path, name: str) -> RunLogger:
        """Begin to log a run.

        Args:
            run_dir (Path): the run folder. name (str): of a folder in it that this logger may use.
        """
        raise TypeError(f"{cls.__name__} must define the classmethod open(run_dir, name).")

    def configuration(self, config: Mapping[str, Any]) -> None:
        """Log the resolved configuration; nested names are joined by dots."""
        self.logger.log_hparams(flat_configuration(config))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars by name."""
        self.logger.log_metrics(dict(values), step=step)

    def picture(self, path: Path, step: int) -> None:
        """Log a figure (``.png``) or a film (``.gif``). By default, do nothing."""

    def close(self) -> None:
        """Write what is left and end the library's run."""
        self.logger.close()


@LOGGERS.register("none")
class NoLogger(RunLogger):
    """``metrics.csv`` alone."""

    def __init__(self) -> None: ...

    @classmethod
    def open(cls, run_dir: Path, name: str) -> NoLogger:
        """Nothing is opened."""
        return cls()

    def configuration(self, config: Mapping[str, Any]) -> None:
        """It is in ``config.yaml``."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """They are in ``metrics.csv``."""

    def close(self) -> None:
        """Nothing is open."""


@LOGGERS.register("tensorboard")
class TensorboardRun(RunLogger):
    """TensorBoard's event files in the run folder."""

    package = "tensorboard"

    @classmethod
    def open(cls, run_dir: Path, name: str) -> TensorboardRun:
        """In a folder of this name."""
        return cls(TensorboardLogger(name, str(run_dir)))

    def picture(self, path: Path, step: int) -> None:
        """Figures and films appear under *Images*."""
        writer = self.logger.experiment
        with Image.open(path) as image:
            width, height = image.size
            if path.suffix == ".png":
                writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")
                return
        from tensorboard.compat.proto.summary_pb2 import Summary

        film = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag=path.stem, image=film)])
        writer._get_file_writer().add_summary(summary, step)


@LOGGERS.register("wandb")
class WandbRun(RunLogger):
    """Weights & Biases: your account, or with ``WANDB_MODE=offline`` a folder in the run folder."""

    package, several = "wandb", False

    @classmethod
    def open(cls, run_dir: Path, name: str) -> WandbRun:
        """Its project is ``WANDB_PROJECT``, else ``ctmrl_torchrl``."""
        project = os.environ.get("WANDB_PROJECT", "ctmrl_torchrl")
        folder = run_dir / name
        return cls(WandbLogger(run_dir.name, save_dir=folder, project=project, log_env_packages=False))

    def picture(self, path: Path, step: int) -> None:
        """Figures are images, films are videos."""
        import wandb

        film = path.suffix == ".gif"
        entry = wandb.Video(str(path), format="gif") if film else wandb.Image(str(path))
        self.logger.experiment.log({path.stem: entry})


@LOGGERS.register("mlflow")
class MlflowRun(RunLogger):
    """MLflow: the store that ``MLFLOW_TRACKING_URI`` names, else ``mlflow.db`` (SQLite) beside the run folder."""

    package, several = "mlflow", False

    @classmethod
    def open(cls, run_dir: Path, name: str) -> MlflowRun:
        """Its experiment is ``MLFLOW_EXPERIMENT_NAME``, else ``ctmrl_torchrl``."""
        import mlflow

        beside = run_dir.resolve().parent
        store = os.environ.get("MLFLOW_TRACKING_URI")
        logger = MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", "ctmrl_torchrl"),
            store or f"sqlite:///{beside / 'mlflow.db'}",
            # With a SQLite store, MLflow would put figures into the working folder.
            artifact_location=None if store else (beside / "mlartifacts").as_uri(),
        )
        mlflow.set_tag("mlflow.runName", run_dir.name)
        return cls(logger)

    def picture(self, path: Path, step: int) -> None:
        """Figures and films are artifacts."""
        import mlflow

        mlflow.log_artifact(str(path), "figures")

    def close(self) -> None:
        """End MLflow's active run."""
        import mlflow

        mlflow.end_run()


def require_logger(name: str, runs: int = 1) -> None:
    """Refuse a logger whose package is not installed, or that cannot serve so many runs in one process.

    Raises:
        ConfigError: with the way out.
    """
    chosen = LOGGERS.get(name)
    require(
        chosen.package is None or importlib.util.find_spec(chosen.package) is not None,
        "output.logger",
        name,
        "a logger whose package is installed",
        " Install it with: pip install 'ctmrl_torchrl[loggers]'.",
    )
    require(
        chosen.several or runs == 1,
        "output.logger",
        name,
        "with seeds=[...] a logger that several runs in one process can use: none or tensorboard",
        " Or train one seed after the other: ctmrl train -m seed=0,1.",
    )


def flat_configuration(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of plain values; lists become texts.

    Examples:
        >>> flat_configuration({"seed": 0, "encoder": {"hidden": [8, 8]}})
        {'seed': 0, 'encoder.hidden': '[8, 8]'}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_configuration(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
