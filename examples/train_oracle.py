"""Train and evaluate the oracle: the policy loss of train_ctmrl.py with privileged task information.

python examples/train_oracle.py env=point_robot_wind preset=cpu        # same groups and fields

Equivalent to ``train_ctmrl.py method=oracle``; any other ``method`` is ignored. The results are printed and
written to RUN_DIR/oracle.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.rules import require
from ctmrl_torchrl.studies import write_run_page
from ctmrl_torchrl.training.commands import check_command_line, recorded_command
from ctmrl_torchrl.training.compose import register_configs, to_config
from ctmrl_torchrl.training.experiment import run_experiment

ORACLE = "method=oracle"
register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(node: DictConfig) -> None:
    """Write and print the return of the oracle and the optimum."""
    overrides = [override for override in HydraConfig.get().overrides.task if override != ORACLE]
    command = recorded_command("python examples/train_oracle.py", overrides)
    with told_plainly():
        config = to_config(node)
        protocols = config.evaluation.protocols
        require("told" in protocols, "evaluation.protocols", protocols, "a list that contains told")
        summary = run_experiment(config, command, write_run_page)
    reference, returns = summary["reference"], summary["returns"]
    result = {
        "env": config.env,
        "tasks": config.tasks,
        "recipe": summary["dataset"]["recipe"],
        "policy_loss": summary["policy_loss"],
        "preset": config.preset,
        "seed": config.seed,
        "updates": round(config.schedule.updates * (1.0 - config.schedule.policy_start)),  # of the policy
        "returns": {split: returns[split]["told"]["mean"] for split in ("test", "train")},
        "optimum": {"test": reference["optimum"], "train": reference["train"]["optimum"]},
        "command": command,
    }
    text = json.dumps(result, indent=1)
    (Path(config.run_dir).expanduser() / "oracle.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.argv[1:] = [ORACLE, *(argument for argument in sys.argv[1:] if not argument.startswith("method="))]
    with told_plainly():
        check_command_line(sys.argv[1:])
    main()
