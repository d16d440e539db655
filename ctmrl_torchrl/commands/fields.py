"""Help text for the fields of a configuration, read from the source without heavy imports."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_POLICY = "objectives/policy/"
#: the configuration classes of each section, from base to derived, with their files
SECTIONS = {
    "": [("ExperimentConfig", "training/config.py")],
    "dataset": [("DatasetConfig", "training/config.py")],
    "context": [("ContextConfig", "training/config.py")],
    "batch": [("BatchConfig", "training/config.py")],
    "sizes": [("SizesConfig", "training/config.py")],
    "encoder": [
        ("ContextEncoderConfig", "modules/encoder_configs.py"),
        ("EncoderConfig", "modules/encoder_configs.py"),
    ],
    "representation": [
        ("RepresentationConfig", "methods/base.py"),
        ("CodebookConfig", "methods/codebook.py"),
        ("CQVAEConfig", "methods/ctmrl.py"),
    ],
    "policy_loss": [("PolicyLossConfig", f"{_POLICY}base.py"), ("BRACSACConfig", f"{_POLICY}brac_sac.py")],
    "optimizer": [("OptimizerConfig", "training/config.py")],
    "schedule": [("ScheduleConfig", "training/config.py")],
    "evaluation": [("EvaluationConfig", "training/config.py")],
    "output": [("OutputConfig", "training/config.py")],
}
#: classes whose docstrings describe fields of a section as well
_DESCRIBED_BY = {
    "context": [("ContextDraw", "data/draws.py")],
    "policy_loss": [("BRACSACLoss", f"{_POLICY}brac_sac.py")],
}
#: configuration groups, which are folders of ``configs/``
GROUPS = ("env", "dataset", "method", "policy_loss", "part", "preset")


def described_fields(section: str) -> list[tuple[str, str]]:
    """Name and description of each field of a section, from its classes' docstrings.

    Examples:
        >>> dict(described_fields("batch"))["transitions"]
        'B, policy transitions per task.'
    """
    nodes = [_class(*each) for each in SECTIONS[section]]
    names = list(dict.fromkeys(name for node in nodes for name in _fields(node)))
    described: dict[str, str] = {}
    for node in (*(_class(*each) for each in _DESCRIBED_BY.get(section, [])), *nodes):
        described |= dict(_arguments(ast.get_docstring(node) or "", names))
    return [(name, described.get(name, "")) for name in names if name not in SECTIONS]


def _class(name: str, file: str) -> ast.ClassDef:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    return next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The fields of a dataclass."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation):
            yield ast.unparse(each.target)


def _arguments(docstring: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The descriptions of the arguments that are among these names."""
    for found in re.finditer(r"Args:\n(.*?)(?:\n\n\S|\n\S|\Z)", docstring, re.S):
        text = " ".join(textwrap.dedent(found.group(1)).split())
        pieces = re.split(r"(?:^|(?<=[.:;)] ))((?:\w+, )*\w+)(?: \((?:[^()]|\([^()]*\))*\))?: ", text)
        known: list[list[str]] = []  # names, description; other "words: ..." belong to the description before
        for words, description in zip(pieces[1::2], pieces[2::2], strict=True):
            if set(words.split(", ")) <= set(names):
                known.append([words, description])
            elif known:
                known[-1][1] += f"{words}: {description}"
        for words, description in known:
            for name in words.split(", "):
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
