"""Composes a typed configuration from overrides with Hydra, and suggests corrections for misspelled names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctmrl_torchrl.guests import note_choice
from ctmrl_torchrl.methods import PARTS
from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.registry import Registry, nearest
from ctmrl_torchrl.rules import SWITCH, ConfigError, rule_of
from ctmrl_torchrl.training.config import CHOICES, ExperimentConfig
from ctmrl_torchrl.training.hydra_store import register_configs

#: configuration groups whose choices are files or nodes registered by a plugin
GROUPS = ("env", "method", "policy_loss", "part", "preset", "dataset", "comparison", "encoder_schema")
#: groups whose choices can be a user's own, and what is said where such a choice is missing
_OF_USERS = ("env", "method", "policy_loss", "part")
#: groups that users do not name themselves, by what they are
_SCHEMAS = {
    "encoder_schema": "context encoder",
    "part_schema": "part",
    "policy_loss_schema": "policy loss",
    "representation_schema": "representation loss",
}
#: fields that were renamed or moved since earlier versions
MOVED = {
    "optimiser": "optimizer",
    "schedule.kmeans": "representation.kmeans",
    "schedule.kmeans_from": "representation.kmeans_from",
    "schedule.kmeans_at": "representation.kmeans_at",
    "schedule.epochs": "representation.kmeans_epochs",
    "schedule.refreshes": "representation.kmeans_refreshes",
    "schedule.contexts_per_epoch": "representation.kmeans_contexts",
    "representation.guess_weight": "representation.posterior_weight",
    "representation.guess_hidden": "representation.posterior_hidden",
}


def choices(group: str) -> list[str]:
    """The choices of ``GROUP=``: files and nodes registered by plugins."""
    files = {file.stem for file in (config_folder() / group).glob("*.yaml")}
    nodes = ConfigStore.instance().repo.get(group, {})
    return sorted(files | {name.removesuffix(".yaml") for name in nodes})


def register_method(
    name: str,
    *,
    representation: str | dict[str, Any],
    encoder: str | dict[str, Any] = "pooling",
    **sections: dict[str, Any],
) -> None:
    """Register ``method=NAME`` without a YAML file.

    Args:
        name (str): name of the choice.
        representation (str or dict): name of a registered representation configuration; or a dictionary with
            that ``name`` and values of its fields.
        encoder (str or dict): the same for a registered encoder configuration.
        sections: values for other sections, e.g. ``context={"trajectories": [2, 10]}``.

    A value that starts with ``${`` is an interpolation, such as ``"${sizes.predictor_hidden}"``.

    Examples:
        >>> register_method(
        ...     "strong_metric",
        ...     representation={"name": "focal", "metric_weight": 10.0},
        ...     batch={"repeat_tasks": True},
        ... )
        >>> compose_config(["method=strong_metric"]).representation.metric_weight
        10.0
    """
    for section, chosen in (("representation", representation), ("encoder", encoder)):
        sections[section] = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    if sections["encoder"]["name"] == "pooling":
        sections["encoder"] = {"hidden": "${sizes.encoder_hidden}"} | sections["encoder"]
    node = {
        "defaults": [
            {"/representation_schema": sections["representation"]["name"]},
            {"override /encoder_schema": sections["encoder"]["name"]},
            "_self_",
        ],
        "method": name,
        **sections,
    }
    ConfigStore.instance().store(group="method", name=name, node=node, package="_global_")
    note_choice("method", name)


@contextmanager
def _hydra() -> Iterator[None]:
    """Point Hydra's global state at our folder and restore the previous state afterwards."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def compose_node(overrides: Sequence[str]) -> DictConfig:
    """The composed configuration before conversion to typed objects.

    Raises:
        ConfigError: for an unknown group, choice or field (with the nearest name), or a value of the wrong type.
    """
    register_configs()
    check_overrides(overrides)
    try:
        with _hydra():
            return compose("config", overrides=with_home_quoted(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error)) from error
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        # for malformed values, and where there are no parts, Hydra also raises built-in exceptions
        of_parts = next((each for each in overrides if each.startswith("parts.")), None)
        if of_parts and isinstance(error, AssertionError):
            name = of_parts.partition("=")[0]
            raise ConfigError(f"{of_parts}: no part was added. {_field_help(name)}") from error
        raise ConfigError(f"{' '.join(overrides)[:200]}: {explained(error)}.") from error


def with_home_quoted(overrides: Sequence[str]) -> list[str]:
    """Quote values that Hydra cannot read otherwise: those that begin with ``~`` or have non-ASCII letters.

    Examples:
        >>> with_home_quoted(["seed=1", "run_dir=~/runs/a", "run_dir='~/runs/b'"])
        ['seed=1', "run_dir='~/runs/a'", "run_dir='~/runs/b'"]
        >>> with_home_quoted(["run_dir=Läufe/a"])
        ["run_dir='Läufe/a'"]
    """
    return [
        re.sub(r"^([\w.]+)=(~[^'\",]*|[^'\",\[\]{}()]*[^\x00-\x7f][^'\",\[\]{}()]*)$", r"\1='\2'", override)
        for override in overrides
    ]


def compose_config(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The typed configuration for ``ctmrl train OVERRIDES``.

    Raises:
        ConfigError: as :func:`compose_node`.

    Examples:
        >>> compose_config(["env=point_robot_wind", "schedule.updates=7"]).schedule.updates
        7
        >>> compose_config(["method=ctmlr"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: method=ctmlr: there is no such choice. Did you mean 'ctmrl'? ...
    """
    return to_config(compose_node(overrides))


def to_config(node: DictConfig) -> ExperimentConfig:
    """Convert a composed configuration to typed objects.

    Raises:
        ConfigError: if an interpolation cannot be resolved, or a value is missing.
    """
    try:
        return cast(ExperimentConfig, OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        raise ConfigError(explained(error)) from error


def check_overrides(overrides: Sequence[str]) -> None:
    """Reject overrides that Hydra would accept silently or reject without a helpful message.

    Raises:
        ConfigError: naming the override.
    """
    for override in overrides:
        _check_override(override)


def _check_override(override: str) -> None:
    """Reject what Hydra would accept silently or reject without a helpful message."""
    if not isinstance(override, str) or "=" not in override:
        raise ConfigError(
            f"{override!r} is not an override; give NAME=VALUE, e.g. env=point_robot or schedule.updates=2000."
        )
    name, _, value = override.partition("=")
    if not name.strip("+~"):
        raise ConfigError(f"{override!r} does not name a field; give NAME=VALUE, e.g. env=point_robot.")
    if name.startswith("~"):
        raise ConfigError(f"{override}: a field cannot be deleted; give it another value instead.")
    if name.startswith("hydra."):
        return
    plain = name.lstrip("+")
    if name.startswith("+") and plain.split("@")[0] not in (*GROUPS, "tuned"):
        raise ConfigError(f"{override}: fields cannot be added. {_field_help(plain)}".rstrip())
    for old, new in MOVED.items():
        if plain == old or plain.startswith(f"{old}."):
            raise ConfigError(f"{override}: the field is now called {plain.replace(old, new, 1)}.")
    chosen = re.findall(r"[^\s,\[\]]+", value) if plain == "part" else [value]
    for each in chosen if plain in GROUPS else ():
        known = choices(plain)
        if re.fullmatch(r"[\w.-]*", each) and each not in known:
            raise ConfigError(
                f"{override}: there is no such choice.{nearest(each, known)} Known: {', '.join(known)}."
                f"{_own(each, known) if plain in _OF_USERS else ''}"
            )
    if re.fullmatch(r"[-+.,\d]+", value) and _is_switch(plain):  # OmegaConf accepts any number
        raise ConfigError(f"config field {plain}: got {value}, allowed is {SWITCH.describe()}.")


def _own(name: str, known: Sequence[str]) -> str:
    """What to do if an unknown name is not a misspelled one."""
    if nearest(name, known):
        return ""
    return " A choice of your own needs the file that registers it: --plugin FILE.py."


def _is_switch(name: str) -> bool:
    """Whether a field is a boolean in any choice of its section."""
    *sections, field = name.split(".")
    holders: list[Any] = [ExperimentConfig()]
    if sections and sections[0] in CHOICES:
        holders = [config() for _, config in CHOICES[sections.pop(0)].items()]
    for section in sections:
        holders = [getattr(holder, section, None) for holder in holders]
    return any(is_dataclass(holder) and rule_of(holder, field) is SWITCH for holder in holders)


_NONE: Registry[Any] = Registry("choice")


def fields_by_name() -> dict[str, Any]:
    """Every field of the default composition with its default, by dotted name."""
    with _hydra():
        node = compose("config")
    return dict(_leaves(node, ""))


def _leaves(node: DictConfig, path: str) -> Iterator[tuple[str, Any]]:
    for key in node:
        name = f"{path}.{key}" if path else str(key)
        value = cast(dict[Any, Any], OmegaConf.to_container(node, resolve=False))[key]
        child = node._get_node(key)
        if isinstance(child, DictConfig) and isinstance(value, dict):
            yield from _leaves(child, name)
        else:
            yield name, value


def _field_help(name: str) -> str:
    """Name the section choice that has this field, or suggest the nearest names."""
    section, _, rest = name.partition(".")
    if section == "parts":
        return _part_help(*rest.partition(".")[::2])
    owners = [
        choice
        for choice, config in (CHOICES[section].items() if section in CHOICES else ())
        if rest in {each.name for each in fields(config)}
    ]
    if owners:
        return f"It is a field of {section}.name={' and '.join(owners)}."
    of_choices = {
        f"{section}.{each.name}"
        for _, config in CHOICES.get(section, _NONE).items()
        for each in fields(config)
    }
    known = list(dict.fromkeys([*fields_by_name(), *sorted(of_choices)]))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    last = name.rsplit(".", 1)[-1]
    close += [each for each in known if each.rsplit(".", 1)[-1] == last and each not in close]
    return f"Did you mean {' or '.join(close[:3])}?" if close else ""


def _part_help(part: str, field: str) -> str:
    """How a part is added, or the nearest of its fields."""
    known = choices("part")
    if part not in known:
        return f"Parts are added by part=NAME; known are {', '.join(known)}.{nearest(part, known)}"
    names = [each.name for each in fields(PARTS.get(part))]
    if field in names:
        return f"It is a field of part={part}, which must be added as well."
    return f"part={part} has {', '.join(names)}.{nearest(field, names)}"


def _quotes(override: str) -> str:
    name, _, value = override.partition("=")
    mark = '"' if "'" in value else "'"
    return f"quotes inside the override: {name}={mark}{value}{mark}"


def explained(error: Exception) -> str:
    """Summarize an error of Hydra or OmegaConf in one line with the field and the nearest name."""
    text = str(error).strip()
    unread = getattr(error, "override", None)
    if isinstance(unread, str):
        return f"{unread}: this value cannot be read; a text with special characters needs {_quotes(unread)}."
    several = re.match(r"Ambiguous value for argument '(.+)'$", text.partition("\n")[0])
    if several:
        override = several.group(1)
        return (
            f"{override}: several values need the option -m, for one run each; a list needs brackets, and a text "
            f"with commas {_quotes(override)}."
        )
    cause = str(error.__cause__).strip() if error.__cause__ is not None else ""
    missing = re.search(r"Key '(?P<key>[^']+)' (?:is not in struct|not in)", f"{text}\n{cause}")
    missing = missing or re.search(r"Could not override '(?P<key>[^']+)'", text)
    field = re.search(r"full_key: (\S+)", f"{text}\n{cause}")
    override = re.search(r"Could not override '([^']+)'", text)
    named = override or field or missing
    first = ((cause or text).splitlines() or [type(error).__name__])[0]
    if missing and named and ("struct" in text + cause or "not in" in text + cause):
        name = named.group(1)
        return f"config field {name}: there is no such field. {_field_help(name)}".rstrip()
    if field:
        return f"config field {field.group(1)}: {first}"
    unknown = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if unknown:
        group, name = unknown.groups()
        if name.startswith("own/"):
            method = name.removeprefix("own/")
            published = sorted(file.stem for file in (config_folder() / group / "own").glob("*.yaml"))
            return (
                f"comparison=own: method={method} has no published values (policy_loss/own/{method}.yaml); "
                f"choose one of {', '.join(published)}, or comparison=shared."
            )
        known = choices(group)
        if group in _SCHEMAS:
            return (
                f"{_SCHEMAS[group]} {name!r}: there is no such choice.{nearest(name, known)} Known: "
                f"{', '.join(known)}.{_own(name, known)}"
            )
        return f"{group}={name}: there is no such choice.{nearest(name, known)} Known: {', '.join(known)}."
    no_group = re.search(r"Could not override '(\w+)'", text)
    if no_group:
        return f"{no_group.group(1)}: there is no such choice or field.{nearest(no_group.group(1), GROUPS)}"
    return (text.splitlines() or [type(error).__name__])[0]
