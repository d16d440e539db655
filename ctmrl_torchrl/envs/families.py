"""Environment families: static descriptions that do not load a simulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Integral, Real
from typing import Any

import gymnasium
from tensordict import NestedKey
from torch import Tensor

from ctmrl_torchrl.envs.users_code import source_digests
from ctmrl_torchrl.registry import Registry, nearest

#: a callable, or a ``"module:attribute"`` string that is imported on first use
EntryPoint = str | Callable[..., Any]

#: the ``simulator`` of a family without an environment
NO_SIMULATOR = "none"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # part of the names of folders


@dataclass(frozen=True, kw_only=True)
class EnvFamily:
    """A family of tasks that share spaces and a simulator and differ in a few parameters.

    The first seven fields are required; :func:`~ctmrl_torchrl.envs.from_gymnasium` fills them in for a gymnasium
    environment. Entry points given as ``"module:attribute"`` strings are imported on first use, so looking up a
    family never loads a simulator.

    Args:
        name: name of the family in configurations: letters, digits, ``_``, ``-`` and ``.``.
        observation_dim: size of the observation.
        action_dim: size of the policy's action, which lies in ``[-1, 1]``.
        horizon: steps until an episode is truncated.
        parameter_names: one name per column of the task parameters.
        sample_parameters: maps a number of tasks to float64 parameters ``[tasks, len(parameter_names)]``; the
            same number must give the same parameters.
        env_builder: ``(task_set, task_ids, device, **options) -> EnvBase``, an entry point; the result is a
            :class:`~ctmrl_torchrl.envs.BatchedTaskEnv` or has the same keys and methods.
        simulator: the simulator, e.g. ``"torch"``, ``"mujoco"`` or ``"gymnasium"``; ``"none"`` for data without
            an environment, which may also have no test tasks.
        context_next_observation: whether tasks differ in their dynamics, so that contexts need the next
            observation.
        return_key: the reward that is reported as the return and read by the context encoder; begins with
            ``"next"``.
        discount: discount factor of the policy loss.
        presets: maps names of presets to ``(number of training tasks, number of test tasks)``.
        inert_parameters: parameters without effect, because their nominal value is zero.
        terminates: whether an episode can end before the horizon.
        gymnasium_id: id of the single environment in gymnasium's registry; None registers none.
        gymnasium_class: the single environment, an entry point; takes ``family``, ``task`` and ``preset``.
        optimum: ``(task_set, **options) -> float64 [tasks]``, the exact optimal returns, an entry point; None
            if unknown.
        task_rewards: ``(task_set, task_ids [n], transitions [M, L]) -> [n, M, L]``, the rewards of transitions in
            other tasks, an entry point; None if all tasks share one reward function, or it is unknown.
        random_return: maps presets and splits to the measured mean return of uniformly random actions.
        plane: indices of the two observation features that are a position in the plane, or None.
        goal_positions: maps task parameters ``[tasks, parameters]`` to the goals ``[tasks, 2]`` in that plane;
            None if the tasks have no goals.
        goal_radius: the distance from the goal within which rewards are given; None if there is no limit.
        figures: entry points that draw the family's figures at the end of a run, called as
            ``figure(task_set, runs, folder, protocol=..., means=..., subtitle=...)``.
        source: digests of the user's files that define the family, by file name;
            :func:`~ctmrl_torchrl.envs.from_gymnasium` fills them in. See :meth:`source_digests`.

    Raises:
        ValueError: if a field is invalid; the message contains it.

    Example:
        >>> get_family("point_robot").horizon
        20
    """

    name: str
    observation_dim: int
    action_dim: int
    horizon: int
    parameter_names: tuple[str, ...]
    sample_parameters: Callable[[int], Tensor]
    env_builder: EntryPoint
    simulator: str = "torch"
    context_next_observation: bool = True
    return_key: NestedKey = ("next", "reward")
    discount: float = 0.99
    presets: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"repo": (30, 10)})
    inert_parameters: frozenset[str] = frozenset()
    terminates: bool = False
    gymnasium_id: str | None = None
    gymnasium_class: EntryPoint | None = None
    optimum: EntryPoint | None = None
    task_rewards: EntryPoint | None = None
    random_return: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    plane: tuple[int, int] | None = None
    goal_positions: Callable[[Tensor], Tensor] | None = None
    goal_radius: float | None = None
    figures: tuple[EntryPoint, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field that does not need the simulator."""
        self._require(
            isinstance(self.name, str) and _NAME.fullmatch(self.name) is not None,
            "name",
            "letters, digits, '_', '-' and '.', at most 100, the first a letter or a digit",
        )
        for size in ("observation_dim", "action_dim", "horizon"):
            self._require(_is_count(getattr(self, size)), size, "a whole number of at least 1")
        key = self.return_key
        self._require(
            isinstance(key, tuple) and len(key) > 1 and key[0] == "next",
            "return_key",
            "a tuple that begins with 'next', such as ('next', 'reward')",
        )
        names = self.parameter_names
        self._require(
            isinstance(names, tuple) and len(names) > 0 and len(set(names)) == len(names),
            "parameter_names",
            "a tuple of at least one name, none of them twice",
        )
        self._require(
            len(self.presets) > 0
            and all(
                isinstance(counts, (tuple, list)) and len(counts) == 2 and all(map(_is_count, counts))
                for counts in self.presets.values()
            ),
            "presets",
            "a mapping of names to (training tasks, test tasks), both at least 1",
        )
        self._require(
            isinstance(self.discount, Real) and 0.0 <= self.discount <= 1.0,
            "discount",
            "a number from 0 to 1",
        )
        self._require(
            set(self.inert_parameters) <= set(names), "inert_parameters", f"some of {', '.join(names)}"
        )
        self._require(
            self.plane is None
            or (len(self.plane) == 2 and all(each in range(self.observation_dim) for each in self.plane)),
            "plane",
            f"two indices of the observation, each from 0 to {self.observation_dim - 1}",
        )
        self._require(
            self.goal_positions is None or self.plane is not None, "plane", "given where goal_positions is"
        )

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise ValueError(
                f"Environment family {self.name!r}: {name} must be {allowed}, got {getattr(self, name)!r}."
            )

    @property
    def has_optimum(self) -> bool:
        """Whether the exact optimal returns are known."""
        return self.optimum is not None

    def read_preset(self, name: str) -> tuple[str, int]:
        """The preset that ``name`` begins with and the number of further training tasks that it asks for.

        Args:
            name: a preset, or ``PRESET+N`` for the same tasks and ``N`` more for training.

        Raises:
            ValueError: if the preset is unknown or the number is not positive.

        Example:
            >>> from ctmrl_torchrl.envs import get_family
            >>> get_family("hopper_rand_params").read_preset("repo+60")
            ('repo', 60)
        """
        if name in self.presets:
            return name, 0
        preset, plus, more = name.rpartition("+")
        if plus and preset in self.presets and more.isascii() and more.isdigit() and int(more) > 0:
            return preset, int(more)
        raise ValueError(
            f"Unknown preset {name!r} for {self.name!r}.{nearest(name, self.presets)} Known presets: "
            f"{', '.join(self.presets)}; PRESET+N adds N training tasks, as in "
            f"{next(iter(self.presets))}+60."
        )

    def task_counts(self, name: str) -> tuple[int, int]:
        """Numbers of training and test tasks of a preset, or of ``PRESET+N``.

        Raises:
            ValueError: as in :meth:`read_preset`.
        """
        preset, more = self.read_preset(name)
        train, test = self.presets[preset]
        return train + more, test

    def known_random_returns(self, name: str) -> dict[str, float]:
        """The measured returns of random actions by split; ``PRESET+N`` shares the test tasks of its preset.

        Example:
            >>> from ctmrl_torchrl.envs import get_family
            >>> get_family("hopper_rand_params").known_random_returns("repo+60")
            {'test': 7.2}
        """
        preset, plus, _ = name.rpartition("+")
        if name in self.random_return or not plus:
            return dict(self.random_return.get(name, {}))
        known = self.random_return.get(preset, {})
        return {split: value for split, value in known.items() if split == "test"}

    def source_digests(self) -> dict[str, str]:
        """Digests of the user's files that define the family, by file name; none for a shipped family.

        Comments and layout are not counted, so that a changed digest means changed code.

        Example:
            >>> get_family("point_robot").source_digests()
            {}
        """
        if self.source or isinstance(self.env_builder, str):
            return dict(self.source)
        return source_digests([self.env_builder])

    def episode_length(self, horizon: int | None = None) -> int:
        """The given horizon, or the family's horizon if None.

        Raises:
            ValueError: if it is not a positive whole number.
        """
        if horizon is None:
            return self.horizon
        return checked_horizon(horizon)


#: reserved among the choices of ``env``: data without an environment
_NO_FAMILY = "dataset"
#: all families, built-in and user-defined, by name
FAMILIES: Registry[EnvFamily] = Registry("environment family")


def register_family(family: EnvFamily) -> EnvFamily:
    """Register a family for ``get_family``, ``make_task_set``, ``make_env`` and ``gymnasium.make``.

    Registering the same object again changes nothing.

    Args:
        family: the family to add.

    Returns:
        The same family.

    Raises:
        ValueError: if another family has the same name or gymnasium id.
    """
    if not isinstance(family, EnvFamily):
        raise TypeError(f"register_family expects an EnvFamily, got {type(family).__name__}.")
    if family.name == _NO_FAMILY:
        raise ValueError(
            f"An environment family cannot be named {_NO_FAMILY!r}: env={_NO_FAMILY} selects data without one."
        )
    taken = next(
        (
            name
            for name, other in FAMILIES.items()
            if family.gymnasium_id is not None
            and other.gymnasium_id == family.gymnasium_id
            and name != family.name
        ),
        None,
    )
    if taken is not None:
        raise ValueError(
            f"The gymnasium id {family.gymnasium_id!r} belongs to the environment family {taken!r}; choose "
            "another gymnasium_id."
        )
    FAMILIES.register(family.name, family)
    if family.gymnasium_id is not None and family.gymnasium_id not in gymnasium.registry:
        gymnasium.register(family.gymnasium_id, family.gymnasium_class, kwargs={"family": family.name})
    return family


def unregister_family(name: str) -> None:
    """Remove a family and its gymnasium id, e.g. at the end of a test; unknown names are ignored."""
    if name in FAMILIES:
        gymnasium.registry.pop(str(FAMILIES.get(name).gymnasium_id), None)
        FAMILIES.unregister(name)


def get_family(name: str) -> EnvFamily:
    """Look up a family by name.

    Args:
        name: one of :func:`family_names`.

    Raises:
        UnknownChoiceError: if the family is unknown; the message lists the names and the nearest one.

    Example:
        >>> get_family("sparse_point_robot").return_key
        ('next', 'sparse_reward')
    """
    return FAMILIES.get(name)


def family_names() -> tuple[str, ...]:
    """The names of all currently registered families, in the order of registration.

    Example:
        >>> family_names()[:2]
        ('point_robot', 'point_robot_wind')
    """
    return FAMILIES.names()


def load_entry_point(entry_point: EntryPoint) -> Any:
    """Resolve an entry point: a callable, or the object that a ``"module:attribute"`` string names.

    Raises:
        ValueError: if the module or the attribute does not exist.
    """
    if not isinstance(entry_point, str):
        return entry_point
    module, _, attribute = entry_point.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"The entry point {entry_point!r} cannot be imported: {error}.") from error


def checked_horizon(horizon: Any) -> int:
    """The horizon as an integer.

    Raises:
        ValueError: if it is not a positive whole number.
    """
    if not _is_count(horizon):
        raise ValueError(f"horizon must be a whole number of at least 1 step, got {horizon!r}.")
    return int(horizon)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
