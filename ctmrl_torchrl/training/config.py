"""The configuration of an experiment: typed, documented, checked; the YAML files only fill it in."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctmrl_torchrl.modules.context_encoder import EncoderConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig, IQLConfig, PolicyLossConfig
from ctmrl_torchrl.objectives.representation import CQVAEConfig, ReleasedConfig, RepresentationConfig

#: what ``policy_loss=`` and ``representation=`` choose from; a new loss adds its configuration here
POLICY_LOSSES: tuple[type[PolicyLossConfig], ...] = (BRACSACConfig, IQLConfig)
REPRESENTATIONS: tuple[type[RepresentationConfig], ...] = (CQVAEConfig, ReleasedConfig)


@dataclass
class DatasetConfig:
    """Where the offline data come from.

    Args:
        path (str or None): an existing dataset; None makes one under ``root`` on first use and reuses it.
        root (str): folder of the datasets made here.
        recipe (str): how the behaviour policies are trained and rolled out: a name in
            ``ctmrl_torchrl.data.recipes_of(env)``.
        seed (int): seed of the collection, apart from the training's.
        verify (str): ``"full"`` compares every file with its checksum before training; ``"quick"`` does not,
            for data so large that reading them once more matters.
    """

    path: str | None = None
    root: str = "datasets"
    recipe: str = "small"
    seed: int = 0
    verify: str = "full"


@dataclass
class ContextConfig:
    """How training contexts are drawn; see :class:`~ctmrl_torchrl.data.ContextDraw`."""

    kind: str = "trajectories"
    length: int = 400
    trajectories: list[int] = field(default_factory=lambda: [5, 20])
    behaviours: list[int] | None = field(default_factory=lambda: [1, 3])
    near_random_fraction: float = 0.5
    near_random_snapshots: int = 1


@dataclass
class BatchConfig:
    """Sizes of a meta-batch: T tasks, B policy transitions each."""

    tasks: int = 16
    transitions: int = 256
    repeat_tasks: bool = False


@dataclass
class OptimiserConfig:
    """Adam, one parameter group for the representation (encoder, predictors, codes) and one for the policy.

    Args:
        representation_rate, policy_rate (float): learning rates.
        policy_final (float): the policy's rate falls to this share of itself, by a cosine over its last part.
        policy_decay_from (float): progress at which that fall begins.
    """

    representation_rate: float = 3e-4
    policy_rate: float = 3e-4
    policy_final: float = 1.0
    policy_decay_from: float = 0.5


@dataclass
class ScheduleConfig:
    """When things happen, as shares of the whole training unless said otherwise.

    Args:
        updates (int): gradient updates in all.
        representation_end (float): by then the representation's learning rate has fallen to zero (cosine);
            from then on the encoder is fixed and only the policy learns.
        policy_start (float): the policy learns from here on.
        epochs (int): the representation phase is divided into so many epochs; at the end of each, contexts of
            all training tasks are collected for K-means.
        kmeans_from (float): share of the *representation phase* from which contexts are collected.
        kmeans_at (float): share of it at which K-means initialises the codes and the codebook terms begin;
            before, the encoder warms up on the prediction term alone.
        refreshes (int): how often in the representation phase K-means refreshes the codes afterwards.
        kmeans (bool): false keeps random initial codes and never refreshes (the paper's ablation).
        contexts_per_epoch (int): contexts collected per task and epoch.
    """

    updates: int = 65_000
    representation_end: float = 1.0
    policy_start: float = 0.0
    epochs: int = 100
    kmeans_from: float = 0.2
    kmeans_at: float = 0.3
    refreshes: int = 20
    kmeans: bool = True
    contexts_per_epoch: int = 1


@dataclass
class EvaluationConfig:
    """Meta-tests during and after training.

    Args:
        every (int): updates between periodic meta-tests; 0 for none.
        repeats (int): repeats of every task in the periodic ones. final_repeats (int): in the final one.
        protocols (list of str): any of ``offline``, ``online``, ``np``, ``np_refine``,
            ``codes``.
        episodes (int): measured episodes of every protocol. random_episodes (int): of those collected under
            ``np``.
        seed (int): seed of the meta-tests, apart from the training's.
    """

    every: int = 1000
    repeats: int = 2
    final_repeats: int = 8
    protocols: list[str] = field(default_factory=lambda: ["offline", "online", "np", "np_refine", "codes"])
    episodes: int = 20
    random_episodes: int = 10
    seed: int = 1000


@dataclass
class OutputConfig:
    """What is written and shown.

    Args:
        log_every (int): updates between two rows of ``metrics.csv``.
        checkpoint_every (int): updates between checkpoints; 0 keeps only the last.
        logger (str): ``tensorboard``, ``wandb`` or ``mlflow`` get the numbers of ``metrics.csv`` as well,
            through TorchRL's loggers; ``none``: no other. progress (bool): show a progress bar.
        figures (bool): draw the figures.
    """

    log_every: int = 50
    checkpoint_every: int = 1000
    logger: str = "tensorboard"
    progress: bool = True
    figures: bool = True


@dataclass
class ExperimentConfig:
    """One run, whole. Every field can be given on the command line: ``schedule.updates=2000``.

    Args:
        env (str): environment family. tasks (str): task-set preset, ``repo`` (30 + 10) or ``paper``.
        method (str): name of the method, for the records. preset (str): name of the size preset, likewise.
        seed (int): seed of the training. seeds (list of int or None): several in one process, trained as one
            stacked computation, each with a run folder of its own; ``seed`` is then left aside.
        device (str): ``auto``, ``cpu``, ``cuda``, ...
        run_dir (str): where the results go; a folder that holds a run already is left alone unless
            ``overwrite`` (bool) is true. resume (str or None): a run folder or checkpoint to go on from.
        threads (int): torch threads on the CPU; small networks are fastest with 1.
        keep_memory (bool): keep freed memory for the next update instead of handing it back to the system:
            faster at large sizes, by a tenth to a quarter; see
            :func:`~ctmrl_torchrl.training.heap.keep_freed_memory`. It holds for the whole process.
        compile (bool): compile the loss and its backward pass by ``torch.compile``. Each phase takes minutes
            to compile; on a CPU that pays where Python's overhead dominates: small batches, long runs.
    """

    env: str = "point_robot"
    tasks: str = "repo"
    method: str = "ctmrl"
    preset: str = "quick"
    seed: int = 0
    seeds: list[int] | None = None
    device: str = "auto"
    run_dir: str = "runs/default"
    overwrite: bool = False
    resume: str | None = None
    threads: int = 1
    keep_memory: bool = True
    compile: bool = False
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    policy_loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


def register_configs() -> None:
    """Tell Hydra of the schema and of the losses to choose from. Safe to call twice."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="experiment_schema", node=ExperimentConfig)
    for config in POLICY_LOSSES:
        store.store(group="policy_loss_schema", name=config.name, node=config, package="policy_loss")
    for config in REPRESENTATIONS:
        store.store(group="representation_schema", name=config.name, node=config, package="representation")
