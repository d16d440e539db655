"""The configuration of an experiment: typed, documented, each field with its rule; YAML files fill it in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from ctmrl_torchrl.collectors import PROTOCOLS, CollectorConfig
from ctmrl_torchrl.data import ContextDraw
from ctmrl_torchrl.envs import FAMILIES, get_family
from ctmrl_torchrl.methods import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.modules.encoder_configs import ENCODERS, ContextEncoderConfig
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.rules import (
    BOUNDS,
    NOT_NEGATIVE,
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

#: what ``output.logger`` chooses from; all but the first need the package of that name
LOGGERS = ("none", "tensorboard", "wandb", "mlflow")

#: a registered family, or ``dataset`` for a run that has data and no environment
DATA_ALONE = "dataset"
_ENV = Rule(
    lambda value: value in FAMILIES or value == DATA_ALONE,
    lambda: f"one of {', '.join((*sorted(FAMILIES), DATA_ALONE))}",
    lambda: (*FAMILIES.names(), DATA_ALONE),
)


@dataclass
class DatasetConfig:
    """Where the offline data come from.

    Args:
        path (str or None): an existing dataset; None makes one under ``root`` on first use and reuses it.
        root (str): folder of the datasets made here.
        recipe (str): how the behavior policies are trained and rolled out: a name in
            ``ctmrl_torchrl.data.recipes_of(env)``.
        seed (int): seed of the collection, apart from the training's.
        verify (str): ``"full"`` compares every file with its checksum before training; ``"quick"`` does not,
            for data so large that reading them once more matters.
    """

    path: str | None = ruled(None, or_none(TEXT))
    root: str = ruled("datasets", TEXT)
    recipe: str = ruled("small", TEXT)
    seed: int = ruled(0, SEED)
    verify: str = ruled("full", among("full", "quick"))


@dataclass
class ContextConfig:
    """How training contexts are drawn; see :class:`~ctmrl_torchrl.data.ContextDraw` for the fields."""

    kind: str = ruled("trajectories", among("trajectories", "transitions"))
    length: int = ruled(400, whole(1))
    trajectories: list[int] = ruled([5, 20], BOUNDS)
    behaviours: list[int] | None = ruled([1, 3], or_none(BOUNDS))
    near_random_fraction: float = ruled(0.5, SHARE)
    near_random_snapshots: int = ruled(1, whole(1))
    different: bool = ruled(False, SWITCH)

    def build(self) -> ContextDraw:
        """The configured way of drawing contexts."""
        return ContextDraw(
            kind=self.kind,
            length=self.length,
            trajectories=tuple(self.trajectories),
            behaviours=None if self.behaviours is None else tuple(self.behaviours),
            near_random_fraction=self.near_random_fraction,
            near_random_snapshots=self.near_random_snapshots,
            different=self.different,
        )


@dataclass
class BatchConfig:
    """Sizes of a meta-batch.

    Args:
        tasks (int): T. transitions (int): B, policy transitions of each task.
        repeat_tasks (bool): draw tasks with replacement, so that a batch may hold a task twice.
    """

    tasks: int = ruled(16, whole(2))
    transitions: int = ruled(256, whole(1))
    repeat_tasks: bool = ruled(False, SWITCH)


@dataclass
class SizesConfig:
    """Widths of networks, as a preset chooses them; methods and policy losses interpolate them.

    Args:
        encoder_hidden (list of int): of the context encoder, per transition.
        predictor_hidden (list of int): of predictors and other networks of a method.
        policy_hidden (list of int): of actor and critics.
    """

    encoder_hidden: list[int] = ruled([200, 200, 200], WIDTHS)
    predictor_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    policy_hidden: list[int] = ruled([256, 256, 256], WIDTHS)


@dataclass
class OptimizerConfig:
    """Adam; losses say which parameters follow the representation's rate and which the policy's.

    Args:
        representation_rate, policy_rate (float): learning rates.
        policy_final (float): the policy's rate falls to this share of itself, by a cosine over its last part.
        policy_decay_from (float): progress at which that fall begins.
    """

    representation_rate: float = ruled(3e-4, NOT_NEGATIVE)
    policy_rate: float = ruled(3e-4, NOT_NEGATIVE)
    policy_final: float = ruled(1.0, SHARE)
    policy_decay_from: float = ruled(0.5, SHARE)


@dataclass
class ScheduleConfig:
    """When things happen, as shares of the whole training unless said otherwise.

    Args:
        updates (int): gradient updates in all.
        representation_end (float): by then the representation's learning rate has fallen to zero (cosine);
            from then on the encoder is fixed and only the policy learns.
        policy_start (float): the policy learns from here on.
    """

    updates: int = ruled(65_000, whole(1))
    representation_end: float = ruled(1.0, SHARE)
    policy_start: float = ruled(0.0, SHARE_BELOW_ONE)

    @property
    def representation_updates(self) -> float:
        """Length of the representation phase."""
        return self.updates * self.representation_end


@dataclass
class EvaluationConfig:
    """Meta-tests during and after training.

    Args:
        every (int): updates between periodic meta-tests; 0 for none.
        repeats (int): repeats of every task in the periodic ones. final_repeats (int): in the final one.
        protocols (list of str): names of adaptation protocols; an empty list for no meta-test at all.
        episodes (int): measured episodes of every protocol. random_episodes (int): of those collected under
            ``np``.
        candidates (int): contexts that protocol ``codes`` tries where the method has none of its own:
            centers of the training tasks' contexts.
        prior_episodes (int): measured episodes under ``np_csro`` before it infers contexts.
        reference_episodes (int or None): episodes under ``idaq`` that are played with contexts of training
            tasks; as many as ``random_episodes`` if null.
        candidate_draws (int): training tasks among which each of them takes the most different context.
        judge (str): what ``idaq`` believes an episode by: ``return``, or a judge that the method brings along.
        queries (int): questions to an oracle under protocols that ask some. oracle_error (float): share of its
            answers that are wrong.
        seed (int): seed of the meta-tests, apart from the training's.
        collector (CollectorConfig): which TorchRL collector plays the episodes.
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
    """What is written and shown.

    Args:
        log_every (int): updates between rows of ``metrics.csv``. checkpoint_every (int): updates between
            checkpoints; 0 writes only the last one.
        logger (str): ``tensorboard``, ``wandb`` or ``mlflow`` get the numbers of ``metrics.csv`` as well,
            through TorchRL's loggers; ``none``: no other. progress (bool): show a progress bar.
        figures (bool): draw the figures.
    """

    log_every: int = ruled(50, whole(1))
    checkpoint_every: int = ruled(1000, whole(0))
    logger: str = ruled("tensorboard", among(*LOGGERS))
    progress: bool = ruled(True, SWITCH)
    figures: bool = ruled(True, SWITCH)


@dataclass
class ExperimentConfig:
    """One run, whole. Every field can be given on the command line: ``schedule.updates=2000``.

    Args:
        env (str): environment family, or ``dataset`` for data without an environment. tasks (str): task-set
            preset, ``repo`` (30 + 10) or ``paper``.
        method (str): name of the method, for the records. preset (str): name of the size preset, likewise.
        comparison (str): ``shared`` compares methods at one policy loss and one size, ``own`` has every method
            as it was published; likewise.
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

    env: str = ruled("point_robot", _ENV)
    tasks: str = ruled("repo", TEXT)
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
    compile: bool = ruled(False, SWITCH)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    encoder: ContextEncoderConfig = field(default_factory=ContextEncoderConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    policy_loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


#: sections whose class is chosen by name, and the registry it comes from
CHOICES = {
    "encoder": ENCODERS,
    "representation": REPRESENTATIONS,
    "policy_loss": POLICY_LOSSES,
}

#: horizon from which a family is tested with as few episodes as the MuJoCo robots
LONG_EPISODES = 100


def register_configs() -> None:
    """Tell Hydra of the schema and of all registered choices. Safe to call again after more have registered."""
    store = ConfigStore.instance()
    store.store(name="experiment_schema", node=ExperimentConfig)
    for section, registry in CHOICES.items():
        for name, config in registry.items():
            store.store(group=f"{section}_schema", name=name, node=config, package=section)
    shipped = config_folder()
    for name in (*FAMILIES, DATA_ALONE):
        if not (shipped / "env" / f"{name}.yaml").exists():
            store.store(group="env", name=name, node=_env_node(name), package="_global_")
    for name in CHOICES["policy_loss"]:
        if not (shipped / "policy_loss" / f"{name}.yaml").exists():
            node = {
                "defaults": [{"/policy_loss_schema": name}, "_self_"],
                "policy_loss": {"hidden": "${sizes.policy_hidden}"},
            }
            store.store(group="policy_loss", name=name, node=node, package="_global_")


def _env_node(name: str) -> dict[str, Any]:
    """What ``env=NAME`` sets for a family without a file.

    Where episodes are long there are few of them, and IQL takes the place of BRAC-SAC: on pendulums of
    different mass and length (preset quick, seed 0) ``np`` returns -361 on training tasks with standardized
    rewards, BRAC-SAC -1,328, whose critics overrate actions that the data lack.
    """
    if name == DATA_ALONE:
        return {"env": name, "evaluation": {"protocols": []}}
    family = get_family(name)
    node: dict[str, Any] = {"env": name, "tasks": next(iter(family.presets))}
    if family.horizon >= LONG_EPISODES:
        # Where episodes may end early, a mean that is subtracted would make the end good or bad.
        choice = "iql" if family.terminates else "iql_standardised"
        node["defaults"] = [{"override /policy_loss": choice}, "_self_"]
        node["context"] = {"trajectories": [1, 3]}
        node["evaluation"] = {
            "protocols": ["none", "offline", "online", "np", "np_refine"],
            "episodes": 6,
            "random_episodes": 2,
            "repeats": 1,
            "final_repeats": 2,
        }
    return node
