"""Make the behaviour data of an environment, and report how good each stage of the behaviour is.

python examples/collect_dataset.py env=half_cheetah_vel                 # as train_ctmrl.py does on first use
python examples/collect_dataset.py env=half_cheetah_vel dataset=paper   # every checkpoint, 50 episodes each
python examples/collect_dataset.py env=ant_goal dataset.seed=1 dataset.root=/big/disk

An interrupted collection goes on where it was when the same command is given again. Beside the data it leaves
report.json and returns.png, and the last behaviour without noise as the oracle: a policy that knows its task.
"""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ctmrl_torchrl.training.build import obtain_dataset
from ctmrl_torchrl.training.config import register_configs
from ctmrl_torchrl.training.data_report import format_data_table, write_data_report
from ctmrl_torchrl.training.validate import validate_config

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Collect, unless it is there; report."""
    elsewhere = ("dataset.root=", "output.")  # where the data are and what was shown change nothing
    choices = [item for item in HydraConfig.get().overrides.task if not item.startswith(elsewhere)]
    command = " ".join(["python examples/collect_dataset.py", *choices])
    settings = OmegaConf.to_object(config)
    validate_config(settings)
    dataset = obtain_dataset(settings)
    report = write_data_report(dataset, dataset.path, command)
    print(format_data_table(report))
    print(f"\nThe dataset, report.json and returns.png are in {dataset.path}")


if __name__ == "__main__":
    main()
