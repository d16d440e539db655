"""Builds an experiment from a configuration. Each component receives only its own section."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.methods import Parts, RepresentationConfig, Setting
from ctmrl_torchrl.modules.encoder_configs import ContextEncoderConfig
from ctmrl_torchrl.objectives import MetaLoss, ParameterGroup
from ctmrl_torchrl.objectives.policy import ActingPolicy, PolicyLossConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import ConfigError, require
from ctmrl_torchrl.storage import expanded
from ctmrl_torchrl.training.actor import check_actor
from ctmrl_torchrl.training.config import ExperimentConfig, OptimizerConfig, held_out_part
from ctmrl_torchrl.training.data import AllTaskContexts, make_buffer, make_problem, obtain_data
from ctmrl_torchrl.training.heap import keep_freed_memory
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.memory import check_memory
from ctmrl_torchrl.training.run_folder import RunFolder
from ctmrl_torchrl.training.schedule import PhaseSchedule
from ctmrl_torchrl.training.tester import Candidates, MetaTester
from ctmrl_torchrl.training.trainer import MetaTrainer
from ctmrl_torchrl.training.validate import check_protocol_data, check_training_tasks, validate_config


@dataclass
class Experiment:
    """The components of one run, built and connected but not yet run; see :func:`build_experiment`."""

    config: ExperimentConfig
    task_set: TaskSet
    dataset: TaskDataset
    problem: Problem
    loss: MetaLoss
    parts: Parts
    trainer: MetaTrainer
    tester: MetaTester
    run_dir: Path
    device: torch.device
    folder: RunFolder | None = None  # set while this process holds the run folder


def build_experiment(config: ExperimentConfig) -> Experiment:
    """Validate the configuration, obtain the data and build every component.

    Raises:
        ConfigError: for a value that is not allowed.
        DatasetError: if the dataset does not match the configuration.
    """
    validate_config(config)
    check_protocol_data(config)
    device = resolve_device(config.device)
    check_compile_device(config.compile, device)
    dataset, task_set = obtain_data(config.dataset, config.env, config.tasks, progress=config.output.progress)
    check_training_tasks(config, len(task_set.train_ids))
    if len(task_set.train_ids) == 1 and config.representation.learns:
        torchrl_logger.warning(
            f"{dataset.path}: there is one training task, so contexts of different tasks are never compared and "
            "the encoder cannot learn to tell tasks apart; use data of at least two training tasks"
        )
    if config.held_out is not None:
        task_set = task_set.hold_out(*held_out_part(config.held_out))
    family = task_set.family
    check_memory(config, device, (family.observation_dim, family.action_dim, family.horizon))
    problem = config.encoder.reads(make_problem(task_set, dataset))
    loss = make_loss(config.encoder, config.representation, config.policy_loss, problem, config.seed)
    loss = loss.to(device)
    check_actor(config, problem, loss)
    groups = parameter_groups(config.representation, config.policy_loss, loss)
    optimizer = make_optimizer(config.optimizer, groups, device)
    # One generator for both buffers: its state in the checkpoint then covers all sampling.
    draw, sampling = config.context.build(), torch.Generator().manual_seed(config.seed)
    setting = Setting(
        loss=loss,
        problem=problem,
        dataset=dataset,
        train_ids=task_set.train_ids,
        draw_contexts=AllTaskContexts(dataset, task_set.train_ids, draw, sampling, device),
        updates=config.schedule.updates,
        representation_updates=config.schedule.representation_updates,
        seed=config.seed,
        generator=sampling,
        device=device,
        context_dim=config.encoder.size(problem),
    )
    added = [part.build(setting) for part in (config.parts or {}).values()]
    parts = Parts([*config.representation.parts(setting), *added])
    apart = torch.Generator()  # drawing contexts for the meta-test must not change the training batches
    candidates = Candidates(
        parts,
        loss,
        AllTaskContexts(dataset, task_set.train_ids, draw, apart, device),
        apart,
        config.evaluation,
    )
    tester = MetaTester(
        task_set,
        dataset,
        ActingPolicy(loss.policy),
        loss.context_encoder,
        context_dim=config.encoder.size(problem),
        encodes_unseen_tasks=config.encoder.encodes_unseen_tasks,
        candidates=candidates,
        training_contexts=candidates.of_training_tasks,
        options=candidates.options,
        config=config.evaluation,
        device=device,
    )
    run_dir = expanded(config.run_dir)
    trainer = MetaTrainer(
        loss,
        make_buffer(dataset, task_set.train_ids, config.batch, draw, sampling, task_set.family.return_key),
        optimizer,
        config.policy_loss.target_update(loss.policy),
        updates=config.schedule.updates,
        schedule=PhaseSchedule(optimizer, groups, loss, config.optimizer, config.schedule),
        parts=parts,
        evaluate=lambda update: tester.quick_numbers(config.evaluation.seed),
        checkpoint_path=run_dir / "checkpoints" / "last.pt",
        identity=run_identity(config, dataset),
        log_every=config.output.log_every,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.output.checkpoint_every,
        device=device,
        compile=config.compile,
        progress=config.output.progress,
    )
    return Experiment(config, task_set, dataset, problem, loss, parts, trainer, tester, run_dir, device)


def obtain_dataset(config: ExperimentConfig) -> TaskDataset:
    """The dataset of a configuration, collected first if it does not exist; see :func:`~.data.obtain_data`."""
    return obtain_data(config.dataset, config.env, config.tasks, progress=config.output.progress)[0]


def resolve_device(name: str) -> torch.device:
    """Resolve a device name. ``auto`` selects CUDA if it is available and the CPU otherwise.

    Raises:
        ConfigError: if the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index is not None:  # torch accepts any number, TorchRL none
            raise RuntimeError("the CPU is one device, without a number")
        torch.zeros(1, device=device).tolist()  # fails on devices without storage, such as meta
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"config field device: got {name!r}, allowed is auto, cpu, or an accelerator on this machine "
            f"such as cuda or cuda:0 ({reason})."
        ) from error
    return device


def check_compile_device(compile: bool | str, device: torch.device) -> None:
    """Check that updates can be run in this way on this device.

    Raises:
        ConfigError: for oneDNN on anything but a CPU.
    """
    require(
        compile != "onednn" or device.type == "cpu",
        "compile",
        compile,
        f"false, recorded or true on {device.type}, because oneDNN computes on the CPU; choose recorded, or "
        "device=cpu",
    )


def set_up_process(threads: int, keep_memory: bool) -> None:
    """Set the number of threads and the heap policy of the whole process."""
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()


def make_loss(
    encoder: ContextEncoderConfig,
    representation: RepresentationConfig,
    policy_loss: PolicyLossConfig,
    problem: Problem,
    seed: int,
) -> MetaLoss:
    """Build the encoder and both losses; ``seed`` determines their initial parameters."""
    problem = encoder.reads(problem)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        context_encoder = encoder.build(problem, transition_key(representation))
        size = encoder.size(problem)
        representation_loss = representation.build(problem, size)
        policy = policy_loss.build_keyed(problem, size)
    return MetaLoss(
        context_encoder,
        representation_loss,
        policy,
        critic_gradient=representation.critic_gradient,
        context_dim=size,
    )


def transition_key(representation: RepresentationConfig) -> str | None:
    """The key under which the encoder writes per-transition contexts, or None if nothing reads them."""
    read = representation.uses_transition_contexts or representation.critic_gradient == "pooling"
    return "transition_contexts" if read else None


def parameter_groups(
    representation: RepresentationConfig, policy_loss: PolicyLossConfig, loss: MetaLoss
) -> list[ParameterGroup]:
    """The parameter groups that both losses request, without the empty ones."""
    groups = [*representation.parameter_groups(loss), *policy_loss.parameter_groups(loss.policy)]
    return [group for group in groups if group.parameters]


def make_optimizer(
    rates: OptimizerConfig, groups: list[ParameterGroup], device: torch.device
) -> torch.optim.Optimizer:
    """Adam with the parameter groups that the losses request.

    On a GPU it never synchronizes with the host. Its learning rates are tensors, so that a captured update sees
    changes.
    """
    base = {"representation": rates.representation_rate, "policy": rates.policy_rate}
    cuda = device.type == "cuda"

    def rate(group: ParameterGroup) -> float | torch.Tensor:
        value = base[group.schedule] * group.scale
        return torch.tensor(value, device=device) if cuda else value

    return torch.optim.Adam(
        [{"params": list(group.parameters), "lr": rate(group), "name": group.name} for group in groups],
        fused=True,
        capturable=cuda,
    )
