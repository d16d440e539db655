from __future__ import annotations

import pytest

from ctmrl_torchrl.evaluation import load_paper_table, paper_reference, paper_result

ENVS = {
    "half_cheetah_vel",
    "point_robot",
    "point_robot_wind",
    "sparse_point_robot",
    "hopper_rand_params",
    "walker_rand_params",
    "ant_goal",
}


def test_tables_are_complete():
    methods, ablations, codes = (load_paper_table(table) for table in ("methods", "ablations", "codes"))
    assert len(methods) == 7 * 2 * 8 and len(ablations) == 7 * 2 * 5
    assert (
        {row.env for row in methods} == {row.env for row in ablations} == {row.env for row in codes} == ENVS
    )
    assert all(row.halfwidth >= 0 for row in (*methods, *ablations, *codes))


def test_main_numbers():
    assert paper_result("point_robot").mean == -4.81
    assert paper_result("point_robot_wind", "idaq", "test").mean == -5.56
    assert paper_result("ant_goal", split="train").mean == -319.76
    assert paper_result("sparse_point_robot", "4", table="codes").halfwidth == 0.33


def test_ctmrl_is_the_same_in_tables_1_and_2():
    for env in ENVS:
        for split in ("ood", "id"):
            assert paper_result(env, split=split) == paper_result(env, split=split, table="ablations")


def test_reference_for_the_summary():
    reference = paper_reference("sparse_point_robot")
    assert reference["test"]["ctmrl"] == {"mean": 12.45, "halfwidth": 0.33}
    assert reference["train"]["ctmrl"]["mean"] == 12.52
    assert paper_reference("mountain_car") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mountain_car",), "environments.*point_robot"),
        (("point_robot", "ctmlr"), "columns.*ctmrl"),
        (("point_robot", "ctmrl", "validation"), "Unknown split.*test"),
        (("point_robot_wind", "64", "ood", "codes"), "columns.*32"),
        (("point_robot", "ctmrl", "ood", "table4"), "Unknown table"),
    ],
)
def test_errors_say_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        paper_result(*arguments)
