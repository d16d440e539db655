"""The typed configuration of an experiment. Every field has a rule; YAML files provide the values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from ctmrl_torchrl.collectors import PROTOCOLS, CollectorConfig
from ctmrl_torchrl.data import ContextDraw
from ctmrl_torchrl.envs import FAMILIES
from ctmrl_torchrl.methods import REPRESENTATIONS, PartConfig, RepresentationConfig
from ctmrl_torchrl.modules.encoder_configs import ENCODERS, ContextEncoderConfig
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.rules import (
    BOUNDS,
    NOT_NEGATIVE,
    POSITIVE_SHARE,
    SEED,
    SHARE,
    SHARE_BELOW_HALF,
    SHARE_BELOW_ONE,
    SWITCH,
    TEXT,
    WIDTHS,
    Rule,
    among,
    different,
    list_of,
    or_none,
    registered,
    ruled,
    whole,
)
from ctmrl_torchrl.training.loggers import LOGGERS

#: a registered family, or ``dataset`` for a run without an environment
DATA_ALONE = "dataset"
_ENV = Rule(
    lambda value: value in FAMILIES or value == DATA_ALONE,
    lambda: f"one of {', '.join((*sorted(FAMILIES), DATA_ALONE))}",
    lambda: (*FAMILIES.names(), DATA_ALONE),
)


def held_out_part(value: str) -> tuple[int, int]:
    """The part and the number of parts of ``held_out``.

    Examples:
        >>> held_out_part("1/5")
        (1, 5)
    """
    part, _, parts = value.partition("/")
    return int(part), int(parts)


def _is_part(value: Any) -> bool:
    if not (isinstance(value, str) and re.fullmatch("[0-9]{1,4}/[0-9]{1,4}", value)):
        return False
    part, parts = held_out_part(value)
    return parts >= 2 and part < parts


_PART = Rule(_is_part, "PART/PARTS with a part from 0 to PARTS - 1 and at least two parts, such as 0/5")
#: ways of running an update that are neither as written nor by the compiler
RECORDED = ("recorded", "onednn")
_COMPILE = Rule(
    lambda value: isinstance(value, bool) or value in RECORDED,
    "false, recorded, onednn or true",
    lambda: RECORDED,
)


@dataclass
class DatasetConfig:
    """Source of the offline data.

    Args:
        path (str or None): an existing dataset. If None, one is collected under ``root`` on first use and then
            reused.
        root (str): folder for collected datasets.
        recipe (str): how the behavior policies are trained and rolled out; a name in
            ``ctmrl_torchrl.data.recipes_of(env)``.
        seed (int): seed of the collection, separate from the training seed.
        verify (str): ``"full"`` verifies every file's checksum before training. ``"quick"`` skips this for data
            so large that reading them takes too long.
        collector (CollectorConfig): where the episodes of a collection are played; the data are the same.
    """

    path: str | None = ruled(None, or_none(TEXT))
    root: str = ruled("datasets", TEXT)
    recipe: str = ruled("small", TEXT)
    seed: int = ruled(0, SEED)
    verify: str = ruled("full", among("full", "quick"))
    collector: CollectorConfig = field(default_factory=CollectorConfig)


@dataclass
class ContextConfig:
    """How training contexts are sampled; see :class:`~ctmrl_torchrl.data.ContextDraw` for the fields."""

    kind: str = ruled("trajectories", among("trajectories", "transitions"))
    length: int = ruled(400, whole(1))
    trajectories: list[int] = ruled([5, 20], BOUNDS)
    behaviours: list[int] | None = ruled([1, 3], or_none(BOUNDS))
    near_random_fraction: float = ruled(0.5, SHARE)
    near_random_snapshots: int = ruled(1, whole(1))
    different: bool = ruled(False, SWITCH)

    def build(self) -> ContextDraw:
        """The configured context draw."""
        return ContextDraw(
            kind=cast(Any, self.kind),
            length=self.length,
            trajectories=(self.trajectories[0], self.trajectories[1]),
            behaviours=None if self.behaviours is None else (self.behaviours[0], self.behaviours[1]),
            near_random_fraction=self.near_random_fraction,
            near_random_snapshots=self.near_random_snapshots,
            different=self.different,
        )


@dataclass
class BatchConfig:
    """Size of a meta-batch.

    Args:
        tasks (int): T, tasks per batch. transitions (int): B, policy transitions per task.
        repeat_tasks (bool): sample tasks with replacement, so that a task may occur twice in a batch.
        best_share (float): share of each task's trajectories, those with the highest returns, that the policy
            learns from. Contexts always come from all trajectories; so do the policy's transitions while the
            representation loss reads them as well.
    """

    tasks: int = ruled(16, whole(2))
    transitions: int = ruled(256, whole(1))
    repeat_tasks: bool = ruled(False, SWITCH)
    best_share: float = ruled(1.0, POSITIVE_SHARE)


@dataclass
class SizesConfig:
    """Widths of the networks. Presets set them; methods and policy losses interpolate them.

    Args:
        encoder_hidden (list of int): hidden layers of the context encoder.
        predictor_hidden (list of int): hidden layers of predictors and other networks of a method.
        policy_hidden (list of int): hidden layers of actor and critics.
    """

    encoder_hidden: list[int] = ruled([200, 200, 200], WIDTHS)
    predictor_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    policy_hidden: list[int] = ruled([256, 256, 256], WIDTHS)


@dataclass
class OptimizerConfig:
    """Settings of Adam. Each loss assigns its parameters to the representation's or the policy's learning rate.

    Args:
        representation_rate, policy_rate (float): learning rates.
        policy_final (float): final policy learning rate as a fraction of ``policy_rate`` (cosine decay).
        policy_decay_from (float): fraction of training after which this decay begins.
    """

    representation_rate: float = ruled(3e-4, NOT_NEGATIVE)
    policy_rate: float = ruled(3e-4, NOT_NEGATIVE)
    policy_final: float = ruled(1.0, SHARE)
    policy_decay_from: float = ruled(0.5, SHARE)


@dataclass
class ScheduleConfig:
    """The training schedule. Unless stated otherwise, values are fractions of the whole training.

    Args:
        updates (int): total number of gradient updates.
        representation_end (float): the representation's learning rate reaches zero here (cosine decay). After
            that the encoder is frozen and only the policy learns.
        policy_start (float): policy learning starts here.
    """

    updates: int = ruled(65_000, whole(1))
    representation_end: float = ruled(1.0, SHARE)
    policy_start: float = ruled(0.0, SHARE_BELOW_ONE)

    @property
    def representation_updates(self) -> float:
        """Number of updates in the representation phase."""
        return self.updates * self.representation_end


@dataclass
class EvaluationConfig:
    """Meta-tests during and after training.

    Args:
        every (int): updates between periodic meta-tests; 0 disables them.
        repeats (int): repeats per task in periodic meta-tests. final_repeats (int): repeats per task in the
            final meta-test.
        protocols (list of str): names of adaptation protocols. An empty list disables meta-tests.
        episodes (int): measured episodes per protocol. random_episodes (int): number of random episodes under
            ``np``.
        candidates (int): number of contexts that protocol ``codes`` tries if the method does not define any;
            they are cluster centers of the training tasks' contexts.
        prior_episodes (int): measured episodes under ``np_csro`` before context inference starts.
        reference_episodes (int or None): episodes under ``idaq`` that use contexts of training tasks. Null
            means ``random_episodes``.
        candidate_draws (int): training tasks sampled for each of these episodes; the most different context
            is used.
        judge (str): score by which ``idaq`` accepts an episode: ``return``, or a judge that the method
            provides.
        queries (int): oracle queries under preference-based protocols. oracle_error (float): fraction of
            wrong oracle answers.
        seed (int): seed of the meta-tests, separate from the training seed.
        collector (CollectorConfig): the TorchRL collector that collects the episodes.
    """

    every: int = ruled(1000, whole(0))
    repeats: int = ruled(2, whole(1))
    final_repeats: int = ruled(8, whole(1))
    protocols: list[str] = ruled(
        ["none", "offline", "online", "np", "np_refine", "codes"],
        different(list_of(registered(PROTOCOLS), 0)),
    )
    episodes: int = ruled(20, whole(1))
    random_episodes: int = ruled(10, whole(1))
    candidates: int = ruled(8, whole(1))
    prior_episodes: int = ruled(2, whole(1))
    reference_episodes: int | None = ruled(None, or_none(whole(1)))
    candidate_draws: int = ruled(5, whole(1))
    judge: str = ruled("return", TEXT)
    queries: int = ruled(10, whole(1))
    oracle_error: float = ruled(0.2, SHARE_BELOW_HALF)
    seed: int = ruled(1000, SEED)
    collector: CollectorConfig = field(default_factory=CollectorConfig)


@dataclass
class OutputConfig:
    """Logging, checkpoints and figures.

    Args:
        log_every (int): updates between rows of ``metrics.csv``. checkpoint_every (int): updates between
            checkpoints; 0 writes only the final one.
        logger (str): ``tensorboard``, ``wandb`` or ``mlflow`` get the numbers of ``metrics.csv``, the
            configuration, figures and films as well, through TorchRL's loggers; ``none``: no other.
        progress (bool): show a progress bar; in a log file, a line a minute.
        figures (bool): draw figures.
    """

    log_every: int = ruled(50, whole(1))
    checkpoint_every: int = ruled(1000, whole(0))
    logger: str = ruled("none", registered(LOGGERS))
    progress: bool = ruled(True, SWITCH)
    figures: bool = ruled(True, SWITCH)


@dataclass
class ExperimentConfig:
    """Configuration of one run. Every field can be set on the command line: ``schedule.updates=2000``.

    Args:
        env (str): environment family, or ``dataset`` for data without an environment. tasks (str): task-set
            preset, ``repo`` (30 + 10) or ``paper``; ``repo+60`` adds 60 training tasks (hopper, walker).
            held_out (str or None): ``1/5`` divides the training tasks into five parts, trains without part 1
            (of 0 to 4) and meta-tests on it in place of the test tasks, which are then not used:
            cross-validation, for choosing settings.
        method (str): name of the method, recorded in the summary. preset (str): name of the size preset, also
            recorded.
        comparison (str): ``shared`` compares methods with one policy loss and one size; ``own`` uses each
            method's published settings. Also recorded.
        seed (int): training seed. seeds (list of int or None): train several seeds in one process as one
            stacked computation, each with a separate run folder; ``seed`` is then ignored.
        device (str): ``auto``, ``cpu``, ``cuda``, ...
        run_dir (str): output folder. overwrite (bool): replace an existing run.
        resume (str or None): run folder or checkpoint to resume from.
        threads (int): number of torch CPU threads. More than 1 saves time only on cores that stay idle; on a
            busy machine updates then take many times as long.
        keep_memory (bool): keep freed memory for the next update instead of returning it to the system.
            This is 10 to 25% faster at large sizes; see
            :func:`~ctmrl_torchrl.training.heap.keep_freed_memory`. It affects the whole process.
        deterministic (bool): use only instructions that every x86-64 processor has and deterministic kernels,
            at about twice the time. The process must be started with
            ``ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE``.
        compile (bool or str): how an update is run. ``recorded`` repeats operations that were recorded once in
            every phase, without Python around them, on a GPU as a CUDA graph; the numbers are those of
            ``false`` bit for bit. Updates that cannot be recorded run as written. ``onednn``, on a CPU only,
            also computes matrix products by oneDNN, whose roundings differ: about 1.5 times as fast where
            PyTorch's products are slow, as on AMD processors. ``true`` compiles with ``torch.compile``, which
            takes up to half a minute for each phase. ``false`` runs updates as written.
        parts (dict or None): parts besides those of the method, by name; chosen by ``part=NAME``.
    """

    env: str = ruled("point_robot", _ENV)
    tasks: str = ruled("repo", TEXT)
    held_out: str | None = ruled(None, or_none(_PART))
    method: str = ruled("ctmrl", TEXT)
    preset: str = ruled("quick", TEXT)
    comparison: str = ruled("shared", TEXT)
    seed: int = ruled(0, SEED)
    seeds: list[int] | None = ruled(None, or_none(different(list_of(SEED, 1))))
    device: str = ruled("auto", TEXT)
    run_dir: str = ruled("runs/default", TEXT)
    overwrite: bool = ruled(False, SWITCH)
    resume: str | None = ruled(None, or_none(TEXT))
    threads: int = ruled(1, whole(1))
    keep_memory: bool = ruled(True, SWITCH)
    deterministic: bool = ruled(False, SWITCH)
    compile: bool | str = ruled(False, _COMPILE)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    encoder: ContextEncoderConfig = field(default_factory=ContextEncoderConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    policy_loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    parts: dict[str, PartConfig] | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


#: sections whose class is chosen by name, with the registry of those classes
CHOICES = {
    "encoder": ENCODERS,
    "representation": REPRESENTATIONS,
    "policy_loss": POLICY_LOSSES,
}
