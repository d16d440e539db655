"""Where the numbers of a report come from, and how to make them again."""

from __future__ import annotations

import pytest

from ctmrl_torchrl.guests import forget_choice
from ctmrl_torchrl.studies.figures import figures_of_runs
from ctmrl_torchrl.studies.origin import origin_of
from ctmrl_torchrl.studies.page import write_run_page
from ctmrl_torchrl.studies.records import data_fingerprint
from ctmrl_torchrl.training.plugins import load_plugin


def test_runs_that_two_levels_share_count_once(make_study, here):
    """Every run takes 36 seconds."""
    levels = {"plain": [], "small": ["dataset.recipe=small"], "long": ["schedule.updates=9"]}
    study = make_study({"factors": {"variant": levels, "seed": [0, 1]}, "compare": "variant"})
    study.run(here, progress=False)
    results = study.results()
    assert len(results.done()) == 6 and len({each.key for each in results.runs}) == 4
    assert origin_of(results).core_hours == pytest.approx(4 * 36 / 3600)


def test_the_data_are_named_by_their_fingerprints(make_study, here):
    study = make_study(
        {"factors": {"env": ["point_robot", "sparse_point_robot"], "method": ["ctmrl"], "seed": [0, 1]}}
    )
    study.run(here, progress=False)
    results = study.results()
    known = {data_fingerprint(study.store, each.run.data) for each in results.runs}
    data = origin_of(results).data
    assert data.keys() == known and None not in known
    assert sorted(what.partition(",")[0] for what in data.values()) == ["point_robot", "sparse_point_robot"]


def test_a_page_says_how_many_cells_have_a_figure(make_study, here):
    study = make_study(
        {"factors": {"env": ["point_robot"], "method": ["ctmrl", "focal", "csro"], "seed": [0, 1]}}
    )
    study.run(here, progress=False)
    results = study.results()
    for method, seed in (("ctmrl", "0"), ("focal", "1")):  # a merged run may lack its figures
        run = next(
            each
            for each in results.runs
            if (each.run.levels["method"], each.run.levels["seed"]) == (method, seed)
        )
        (run.folder / "figures").mkdir(exist_ok=True)
        (run.folder / "figures" / "context_map.png").write_bytes(b"")
    maps = figures_of_runs(results)
    assert [each.title for each in maps] == [
        "Context map: env=point_robot method=ctmrl seed=0",
        "Context map: env=point_robot method=focal seed=1",
    ]
    assert maps[0].caption == "2 of 3 cells; 2 have a run with this figure."


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = 'from ctmrl_torchrl.guests import note_choice\n\nnote_choice("method", "own_origin")\n'
    (tmp_path / "own_origin_file.py").write_text(text)
    load_plugin("own_origin_file.py")
    yield "own_origin"
    forget_choice("method", "own_origin")


def test_commands_name_the_files_of_own_methods(own_method, make_study, here):
    study = make_study({"factors": {"method": ["ctmrl", own_method], "seed": [0]}, "protocols": ["np"]})
    study.run(here, progress=False)
    origin = origin_of(study.results())
    assert origin.command == "ctmrl --plugin own_origin_file.py study run small.yaml"
    assert origin.commands == {
        "method=ctmrl seed=0": "ctmrl train method=ctmrl 'evaluation.protocols=[np]' seed=0",
        "method=own_origin seed=0": (
            "ctmrl train --plugin own_origin_file.py method=own_origin 'evaluation.protocols=[np]' seed=0"
        ),
    }
    assert origin.command in study.report().read_text(encoding="utf-8")


def test_a_page_does_not_claim_that_its_runs_were_made_with_its_own_commit(make_study, here):
    study = make_study({"factors": {"method": ["ctmrl"], "seed": [0]}})
    study.run(here, progress=False)
    for page in (study.report(), write_run_page(study.results().runs[0].folder)):
        text = page.read_text(encoding="utf-8")
        assert "<th>written with</th>" in text and "<th>commit</th>" not in text


def test_a_training_that_levels_share_counts_once(make_study, here):
    """The second level meta-tests the agents of the first."""
    levels = {"plain": [], "longer": ["evaluation.episodes=30"]}
    study = make_study({"factors": {"test": levels, "seed": [0, 1]}, "compare": "test"})
    study.run(here, progress=False)
    results = study.results()
    assert len({each.key for each in results.runs}) == 4
    inherited = [each.seconds for each in results.runs if each.run.levels["test"] == "longer"]
    assert max(inherited) < 36  # seconds of the test alone, not those of the training before it
    assert origin_of(results).core_hours == pytest.approx((2 * 36 + sum(inherited)) / 3600)
