"""Meta-train and meta-test one agent: data, training, adaptation to unseen tasks, summary and figures.

python examples/train_ctmrl.py                                  # Point-Robot, minutes on a CPU
python examples/train_ctmrl.py env=point_robot_wind preset=cpu seed=1
python examples/train_ctmrl.py seeds=[0,1,2]                    # three agents at once, a run folder each
python examples/train_ctmrl.py --help                           # the choices
python examples/train_ctmrl.py --cfg job                        # every field, with its value
"""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ctmrl_torchrl.evaluation import format_summary_table
from ctmrl_torchrl.training.config import register_configs
from ctmrl_torchrl.training.experiment import run_experiment, run_seeds

register_configs()


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def main(config: DictConfig) -> None:
    """Run the experiment that the command line describes."""
    choices = [
        item
        for item in HydraConfig.get().overrides.task
        if not item.startswith(("run_dir=", "output.", "resume=", "overwrite="))
    ]
    command = " ".join(["python examples/train_ctmrl.py", *choices])
    if config.seeds is None:
        summaries = [run_experiment(OmegaConf.to_object(config), command)]
    else:
        configs = [OmegaConf.merge(config, {"seed": seed, "seeds": None}) for seed in config.seeds]
        summaries = run_seeds([OmegaConf.to_object(each) for each in configs], command)
    for summary in summaries:
        print(format_summary_table(summary))


if __name__ == "__main__":
    main()
