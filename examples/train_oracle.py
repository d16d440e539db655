"""Train and measure the oracle: the policy loss of train_ctmrl.py, told the task's parameters.

python examples/train_oracle.py env=point_robot_wind preset=cpu        # the same groups and fields

The numbers are printed, and written to RUN_DIR/oracle.json, beside the run of the same settings.
"""

from __future__ import annotations

import json
from pathlib import Path

import hydra
from ctmrl_torchrl.training.oracle import train_oracle
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ctmrl_torchrl.training.config import register_configs

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Write and print what the oracle reaches, beside the optimum."""
    elsewhere = ("dataset.root=", "run_dir=", "output.")  # where things are changes nothing
    choices = [item for item in HydraConfig.get().overrides.task if not item.startswith(elsewhere)]
    command = " ".join(["python examples/train_oracle.py", *choices])
    text = json.dumps(train_oracle(OmegaConf.to_object(config)) | {"command": command}, indent=1)
    file = Path(config.run_dir) / "oracle.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
