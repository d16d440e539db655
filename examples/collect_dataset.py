"""Collect the behavior data of an environment, and report the return of each behavior snapshot.

python examples/collect_dataset.py env=half_cheetah_vel                 # as in the first run of train_ctmrl.py
python examples/collect_dataset.py env=half_cheetah_vel dataset=paper   # every checkpoint, 50 episodes each
python examples/collect_dataset.py env=ant_goal dataset.seed=1 dataset.root=/big/disk

Repeat the same command to resume an interrupted collection. In addition to the data, the program writes
report.json and returns.png, which include the return of the last behavior without noise.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.training.build import set_up_process
from ctmrl_torchrl.training.commands import check_command_line, recorded_command
from ctmrl_torchrl.training.compose import register_configs, to_config
from ctmrl_torchrl.training.data import dataset_folder, obtain_data
from ctmrl_torchrl.training.data_report import check_report_place, format_data_table, write_data_report
from ctmrl_torchrl.training.validate import validate_config

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(node: DictConfig) -> None:
    """Collect the dataset unless it exists, and report on it."""
    command = recorded_command("python examples/collect_dataset.py", HydraConfig.get().overrides.task)
    with told_plainly():
        config = to_config(node)
        validate_config(config)
        set_up_process(config.threads, config.keep_memory)
        check_report_place(dataset_folder(config.dataset, config.env, config.tasks))
        dataset, _ = obtain_data(config.dataset, config.env, config.tasks, progress=config.output.progress)
        report = write_data_report(dataset, dataset.path, command)
    print(format_data_table(report))
    print(f"\nThe dataset, report.json and returns.png are in {dataset.path}")


if __name__ == "__main__":
    with told_plainly():
        check_command_line(sys.argv[1:])
    main()
