"""Help text for the fields of a configuration, read from the source without heavy imports."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
#: the class of each section of the configuration, and its file
SECTIONS = {
    "": ("ExperimentConfig", "training/config.py"),
    "dataset": ("DatasetConfig", "training/config.py"),
    "context": ("ContextConfig", "training/config.py"),
    "batch": ("BatchConfig", "training/config.py"),
    "sizes": ("SizesConfig", "training/config.py"),
    "encoder": ("EncoderConfig", "modules/encoder_configs.py"),
    "representation": ("CQVAEConfig", "methods/ctmrl.py"),
    "policy_loss": ("BRACSACConfig", "objectives/policy/brac_sac.py"),
    "optimizer": ("OptimizerConfig", "training/config.py"),
    "schedule": ("ScheduleConfig", "training/config.py"),
    "evaluation": ("EvaluationConfig", "training/config.py"),
    "output": ("OutputConfig", "training/config.py"),
}
#: configuration groups, which are folders of ``configs/``
GROUPS = ("env", "dataset", "method", "policy_loss", "preset")


def described_fields(section: str) -> list[tuple[str, str]]:
    """Name and description of each field of a section, from the class's docstring.

    Examples:
        >>> dict(described_fields("batch"))["transitions"]
        'B, policy transitions per task.'
    """
    name, file = SECTIONS[section]
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    return list(_arguments(ast.get_docstring(node) or ""))


def _arguments(docstring: str) -> Iterator[tuple[str, str]]:
    found = re.search(r"Args:\n(.*?)(?:\n\n\S|\n\S|\Z)", docstring, re.S)
    if found is None:
        return
    text = " ".join(textwrap.dedent(found.group(1)).split())
    pieces = re.split(r"(?:^|(?<=[.:;)] ))((?:\w+, )*\w+) \((?:[^()]|\([^()]*\))*\): ", text)
    for names, description in zip(pieces[1::2], pieces[2::2], strict=True):
        for name in names.split(", "):
            yield name, description.strip()


def choices_of(folder: Path, group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(file.stem for file in (folder / group).glob("*.yaml"))


def help_text(folder: Path, program: str) -> str:
    """The output of ``ctmrl train --help``: groups with their choices, then every field."""
    lines = [
        f"usage: {program} [GROUP=CHOICE | FIELD=VALUE ...]",
        "",
        "options:",
        "  -m, --multirun   run once for every combination of comma-separated values: seed=0,1,2",
        "  --cfg job        print the whole configuration and stop",
        "",
        "groups and their choices (a plugin may register more):",
    ]
    lines += [f"  {group:12} {', '.join(choices_of(folder, group))}" for group in GROUPS]
    lines += ["", "fields (of the default choices; others have more):"]
    for section in SECTIONS:
        for name, description in described_fields(section):
            full = f"{section}.{name}" if section else name
            wrapped = textwrap.wrap(description, 78)
            lines.append(f"  {full}")
            lines += [f"      {line}" for line in wrapped]
    return "\n".join(lines) + "\n"
