from __future__ import annotations

import re

import pytest

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_node
from ctmrl_torchrl.training.sweep import check_sweep, swept_overrides


@pytest.mark.parametrize(
    ("overrides", "proposed"),
    [
        (["seed=0,1", "run_dir=runs/x"], "runs/x-seed${seed}"),
        (["seed=0,1", "run_dir=runs/"], "runs/seed${seed}"),
        (
            ["seed=0,1", "batch.tasks=4,8"],
            "runs/point_robot-repo/ctmrl-brac_sac-quick-seed${seed}-tasks${batch.tasks}",
        ),
        (["policy_loss=brac_sac,iql", "run_dir=same"], "same-policy_loss${policy_loss.name}"),
        (["dataset=small,smoke", "run_dir=same"], "same-recipe${dataset.recipe}"),
        (
            ["env=point_robot,point_robot_wind", "method=ctmrl,focal", "run_dir=x"],
            "x-env${env}-method${method}",
        ),
    ],
)
def test_the_proposed_folder_tells_the_jobs_apart(overrides, proposed):
    with pytest.raises(ConfigError, match="would share the folder") as refused:
        check_sweep(overrides)
    assert re.search(r"'run_dir=(.*)'\.$", str(refused.value))[1] == proposed
    mended = [each for each in overrides if not each.startswith("run_dir=")] + [f"run_dir={proposed}"]
    check_sweep(mended)
    jobs = swept_overrides(mended)
    assert len({compose_node(job).run_dir for job in jobs}) == len(jobs)


def test_a_value_that_cannot_be_read_is_told():
    with pytest.raises(ConfigError, match=r"dataset.path=Data \(1\): this value cannot be read"):
        check_sweep(["seed=0,1", "dataset.path=Data (1)"])
