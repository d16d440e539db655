"""Expands the grid of a study into runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctmrl_torchrl.studies.config import SEED, StudyConfig
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import as_text
from ctmrl_torchrl.studies.identity import code_of, data_key, identity_of, training_of

__all__ = ["PlannedRun", "expand"]

Resolve = Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class PlannedRun:
    """One run of the grid.

    Args:
        levels: its level of every factor.
        overrides: the overrides of the run.
        configuration: the resolved configuration, nested.
        data: key of its dataset, see :func:`~ctmrl_torchrl.studies.identity.data_key`.
        code: digest of the user's files that it uses, see :func:`~ctmrl_torchrl.studies.identity.code_of`.
    """

    levels: Mapping[str, str]
    overrides: tuple[str, ...]
    configuration: Mapping[str, Any]
    data: str
    code: str = ""
    _known: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def identity(self, data: str) -> str:
        """Its identity with a dataset of this fingerprint, which is computed once."""
        return self._once(identity_of, data)

    def training(self, data: str) -> str:
        """What it shares with runs that train the same agent, which is computed once.

        Files that only the meta-test uses, such as a protocol's, do not count.
        """
        trained = {name: value for name, value in self.configuration.items() if name != "evaluation"}
        return self._once(training_of, data, code_of(trained) if self.code else "")

    def _once(
        self, digest: Callable[[Mapping[str, Any], str, str], str], data: str, code: str | None = None
    ) -> str:
        key = (digest.__name__, data)
        if key not in self._known:
            self._known[key] = digest(self.configuration, data, self.code if code is None else code)
        return self._known[key]

    @property
    def label(self) -> str:
        """The levels as text: ``env=point_robot method=ctmrl seed=0``."""
        return " ".join(f"{name}={level}" for name, level in self.levels.items())


def expand(study: StudyConfig, resolve: Resolve) -> list[PlannedRun]:
    """All runs of a study in the order of its factors; the last factor changes fastest.

    Args:
        study: the study.
        resolve: resolves overrides to a configuration.

    Raises:
        StudyError: if no run is left, or a combination cannot be resolved; the message contains it.
    """
    cached: dict[tuple[str, ...], Mapping[str, Any]] = {}
    runs = [_planned(study, levels, resolve, cached) for levels in _combinations(study)]
    if not runs:
        raise StudyError(f"The study {study.name!r} has no runs: 'exclude' removes every combination.")
    return runs


def _combinations(study: StudyConfig) -> Iterator[dict[str, str]]:
    for levels in itertools.product(*(study.levels(factor) for factor in study.factors)):
        chosen = dict(zip(study.factors, levels, strict=True))
        if not any(_matches(chosen, rule) for rule in study.exclude):
            yield chosen


def _matches(levels: Mapping[str, str], rule: Mapping[str, Any]) -> bool:
    return all(
        levels[factor] in [as_text(each) for each in (value if isinstance(value, list) else [value])]
        for factor, value in rule.items()
    )


def _planned(
    study: StudyConfig,
    levels: Mapping[str, str],
    resolve: Resolve,
    cached: dict[tuple[str, ...], Mapping[str, Any]],
) -> PlannedRun:
    without_seed = [*study.fixed]
    for factor, level in levels.items():
        if factor != SEED:
            without_seed += study.overrides(factor, level)
    if study.protocols and not any(each.startswith("evaluation.protocols=") for each in without_seed):
        without_seed.append(f"evaluation.protocols=[{','.join(study.protocols)}]")

    def resolved(*own: str) -> Mapping[str, Any]:
        key = (*without_seed, *own)
        if key not in cached:
            try:
                cached[key] = resolve(list(key))
            except Exception as error:  # any exception of the configuration's checks
                where = " ".join(f"{name}={level}" for name, level in levels.items() if name != SEED)
                raise StudyError(f"The study {study.name!r} cannot run {where}: {error}") from error
        return cached[key]

    # A value such as dataset.seed=${seed}, of an override or of a user's method, depends on the seed; other
    # configurations are resolved once.
    seed = [f"{SEED}={levels[SEED]}"] if SEED in levels else []
    configuration = resolved(*(seed if any("${" in each for each in without_seed) else ()))
    if seed and code_of(configuration):
        configuration = resolved(*seed)
    overrides = list(without_seed)
    if SEED in levels:
        configuration = {**configuration, SEED: int(levels[SEED])}
        overrides.append(f"{SEED}={levels[SEED]}")
    return PlannedRun(
        levels, tuple(overrides), configuration, data_key(configuration), code_of(configuration)
    )
