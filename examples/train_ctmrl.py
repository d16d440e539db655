"""Meta-train and meta-test one agent: data, training, adaptation to unseen tasks, summary and figures.

Examples::

    python examples/train_ctmrl.py                                  # Point-Robot, minutes on a CPU
    python examples/train_ctmrl.py env=point_robot_wind preset=cpu seed=1
    python examples/train_ctmrl.py --help                           # every choice and every field
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf

from ctmrl_torchrl.evaluation import format_summary_table
from ctmrl_torchrl.training.config import register_configs
from ctmrl_torchrl.training.experiment import run_experiment

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Run the experiment that the command line describes."""
    summary = run_experiment(OmegaConf.to_object(config))
    print(format_summary_table(summary))


if __name__ == "__main__":
    main()
