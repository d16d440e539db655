"""Meta-train and meta-test one agent: data, training, adaptation to unseen tasks, summary and figures.

python examples/train_ctmrl.py                                  # Point-Robot, minutes on a CPU
python examples/train_ctmrl.py env=point_robot_wind preset=cpu seed=1
python examples/train_ctmrl.py seeds=[0,1,2]                    # three agents at once, a run folder each
python examples/train_ctmrl.py -m seed=0,1,2 preset=cpu         # three runs, one after the other
python examples/train_ctmrl.py --help                           # available choices
python examples/train_ctmrl.py --cfg job                        # every field and its value
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctmrl_torchrl.commands.runs import run_node
from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.evaluation import format_summary_table
from ctmrl_torchrl.training.commands import check_command_line, recorded_command
from ctmrl_torchrl.training.compose import register_configs

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Run the experiment of the command line: collect data, train, meta-test, draw figures."""
    command = recorded_command("python examples/train_ctmrl.py", HydraConfig.get().overrides.task)
    with told_plainly():
        for summary in run_node(config, command):
            print(format_summary_table(summary))


if __name__ == "__main__":
    with told_plainly():  # errors name a misspelled option and the closest match
        check_command_line(sys.argv[1:])
    main()
