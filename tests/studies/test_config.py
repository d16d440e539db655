"""A study is read, changed and checked before anything runs."""

from __future__ import annotations

import datetime

import pytest
import yaml

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.config import load_study, study_from
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.grid import expand
from ctmrl_torchrl.studies.identity import data_key, differences, identity_of
from ctmrl_torchrl.studies.places import study_names

SMALL = {
    "factors": {
        "env": ["a", "b"],
        "variant": {"full": [], "plain": ["schedule.kmeans=false"]},
        "seed": [0, 1],
    },
    "compare": "variant",
}


def resolve(overrides):
    """A stand-in for Hydra: dotted fields become sections."""
    found = {
        "env": "none",
        "dataset": {"recipe": "small", "root": "datasets", "path": None},
        "encoder": {"feature_gain": 0.5},  # values that no shipped study has
        "policy_loss": {"observation_gain": 0.5},
    }
    for override in overrides:
        name, _, value = override.partition("=")
        *path, last = name.split(".")
        place = found
        for step in path:
            place = place.setdefault(step, {})
        place[last] = yaml.safe_load(value)
    return found


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_expand(name):
    study = load_study(name)
    runs = expand(study, resolve)
    assert study.name == name and study.description
    assert len({identity_of(run.configuration, "data") for run in runs}) == len(runs)
    if study.report.paper is not None:
        from ctmrl_torchrl.evaluation import load_paper_table

        columns = {row.method for row in load_paper_table(study.report.paper)}
        assert set(study.report.paper_columns.values()) <= columns


def test_the_sizes_of_the_papers_tables():
    assert len(expand(load_study("table1"), resolve)) == 7 * 2 * 10 * 6
    assert len(expand(load_study("table2"), resolve)) == 7 * 5 * 6
    reported = {"half_cheetah_vel": 6, "point_robot": 6, "point_robot_wind": 5, "sparse_point_robot": 6}
    assert len(expand(load_study("table3"), resolve)) == (sum(reported.values()) + 3 * 4) * 6


def test_protocols_reuses_the_agents_of_table1():
    one, other = (
        {run.training("data") for run in expand(load_study(name), resolve)}
        for name in ("protocols", "table1")
    )
    assert one < other


def test_methods_of_ones_own_are_levels_where_levels_name_their_value():
    study = load_study("table1", ["methods=[csro,mine,anole]"])
    assert study.overrides("method", "mine") == ("method=mine",)
    assert study.overrides("method", "anole")[1] == "evaluation.protocols=[none,anole]"
    with pytest.raises(ConfigError, match="factors.variant: it has no level 'fulll'"):
        load_study("table2", ["variants=[fulll]"])


def test_the_grid_and_its_overrides():
    runs = expand(study_from(SMALL | {"fixed": ["preset=smoke"], "protocols": ["np", "offline"]}), resolve)
    assert [run.label for run in runs[:3]] == [
        "env=a variant=full seed=0",
        "env=a variant=full seed=1",
        "env=a variant=plain seed=0",
    ]
    assert runs[2].overrides == (
        "preset=smoke", "env=a", "schedule.kmeans=false", "evaluation.protocols=[np,offline]", "seed=0",
    )  # fmt: skip
    assert runs[2].configuration["seed"] == 0 and runs[3].configuration["seed"] == 1
    assert runs[0].data == runs[3].data != runs[4].data


def test_combinations_are_excluded():
    study = study_from(SMALL | {"exclude": [{"env": "b", "variant": ["plain"]}]})
    assert [(run.levels["env"], run.levels["variant"]) for run in expand(study, resolve)][::2] == [
        ("a", "full"),
        ("a", "plain"),
        ("b", "full"),
    ]
    with pytest.raises(StudyError, match="has no run"):
        expand(study_from(SMALL | {"exclude": [{"env": ["a", "b"]}]}), resolve)


def test_changes_from_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    content = SMALL | {"exclude": [{"env": "b", "seed": 1}]}
    file.write_text(yaml.safe_dump(content))
    study = load_study(
        file,
        ["envs=[a,c]", "seeds=5", "variant=[plain]", "runner=ray", "runner.address=auto", "report.digits=3",
         "+schedule.updates=80", "factors.extra.level=[1,2]"],
    )  # fmt: skip
    assert [study.levels(name) for name in ("env", "seed", "variant", "extra.level")] == [
        ("a", "c"), ("5",), ("plain",), ("1", "2"),
    ]  # fmt: skip
    assert study.runner == {"name": "ray", "address": "auto"} and study.report.digits == 3
    assert study.fixed == ["schedule.updates=80"] and study.exclude == []
    assert load_study("mine", folders=[tmp_path]).name == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare": "varient"}, "config field compare: .*Did you mean 'variant'"),
        ({"compare": "seed"}, "other than seed"),
        ({"factors": {}}, "config field factors"),
        ({"factors": {"env": []}, "compare": "env"}, "config field factors"),
        ({"factors": {"env": ["a", "a"]}, "compare": "env"}, "factors.env.*no value twice"),
        ({"fixed": ["preset"]}, "config field fixed"),
        ({"protocols": ["np", "np"]}, "protocols.*none of them twice"),
        ({"exclude": [{"envs": "a"}]}, "exclude.*Did you mean 'env'"),
        ({"exclude": [{"env": "z"}]}, "exclude.env.*one of its levels: a, b"),
        ({"report": {"baseline": "ful"}}, "report.baseline.*Did you mean 'full'"),
        (
            {"protocols": ["np", "offline"], "report": {"figure_protocols": ["ofline"]}},
            "report.figure_protocols.*study's protocols: np, offline.*Did you mean 'offline'",
        ),
        ({"report": {"figure_protocols": ["npp"]}}, "report.figure_protocols: got 'npp'.*Did you mean 'np'"),
        ({"factors": {"env": {datetime.date(2026, 3, 1): ["dataset.seed=1"]}}}, "config field factors"),
        ({"report": {"digit": 2}}, "report.digit: .*Did you mean 'digits'"),
        ({"factor": 3}, "config field factor: .*Did you mean 'factors'"),
        ({"runner": {"workers": 2}}, "config field runner"),
        ({"name": "../up"}, "config field name"),
        ({"description": ["a", "b"]}, "config field description: .*a text"),
        ({"report": {"digits": 400}}, "digits.*from 0 to 12"),
        ({"fixed": ["seed=3"]}, "fixed: got 'seed=3', allowed is no seed, which is a factor"),
        ({"fixed": ["resume=runs/a"]}, "fixed: got 'resume=runs/a', .*which the study sets itself"),
        ({"factors": SMALL["factors"] | {"variant": {"full": ["env=b"]}}}, "variant.full: got 'env=b'"),
        ({"factors": SMALL["factors"] | {"seed": [-1]}}, "factors.seed: got '-1', allowed is a whole number"),
        ({"factors": SMALL["factors"] | {"seed": [2**31]}}, "factors.seed: got '2147483648'"),
        ({"factors": SMALL["factors"] | {"seed": [int("9" * 400)]}}, "config field factors"),
        (
            {"factors": SMALL["factors"] | {"seed": {"0": ["schedule.updates=9"]}}},
            "factors.seed: .*a list of seeds",
        ),
        ({"factors": SMALL["factors"] | {"run_dir": ["x", "y"]}}, "factors: got 'run_dir'.*sets itself"),
        ({"factors": SMALL["factors"] | {True: ["x"]}}, "config field factors: .*from a field to a list"),
        (
            {"factors": SMALL["factors"] | {"phase": {"late": ["schedule.kmeans=true"]}}},
            "factors.phase: got 'schedule.kmeans=true', .*levels of variant set, too; join the two",
        ),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        study_from(SMALL | changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seedz=[1]"], "neither a field nor a factor.*Did you mean 'seeds'"),
        (["methods"], "must have the form field=value"),
        (["name.x=1"], "is invalid: "),
        (["seeds=[1"], "cannot be read"),
        (["envs=point_robot,point_robot_wind"], r"brackets .*: envs=\[point_robot,point_robot_wind\]"),
        (["schedule.updates=20"], r"every run write \+schedule.updates=20"),
        (["exclude=5"], "config field exclude"),
        (["exclude=[env]"], "config field exclude"),
        (["factors=5"], "config field factors"),
        (["factors.method=5"], "config field factors"),
        (["exclude=[{envs: point_robot}]"], "exclude: got 'envs'.*Did you mean 'env'"),
    ],
)
def test_mistakes_on_the_command_line(overrides, message):
    with pytest.raises((ConfigError, StudyError), match=message):
        load_study("quick", overrides)


def test_unknown_studies_levels_and_unreadable_files(tmp_path):
    with pytest.raises(StudyError, match="Unknown study 'tabel1'. Did you mean 'table1'"):
        load_study("tabel1")
    with pytest.raises(ConfigError, match="no level 'without_kmean'. Did you mean 'without_kmeans'"):
        load_study("table2", ["variants=[without_kmean]"])
    for name in ("x" * 300, f"{'x' * 300}.yaml"):
        with pytest.raises(StudyError, match="Unknown study"):
            load_study(name)
    texts = {
        "- 1": "must be a mapping",
        "a: [": "cannot be read",
        "name: a\nfixed: []\nname: b": "'name' is given twice, line 1 and below",
        "factors: {seed: [0], seed: [1]}": "'seed' is given twice",
    }
    for text, message in texts.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(StudyError, match=message):
            load_study(tmp_path / "bad.yaml")


def test_a_combination_that_cannot_be_resolved_is_named():
    def refuse(overrides):
        raise ValueError("unknown method 'zzz'")

    with pytest.raises(StudyError, match="cannot run env=a variant=full: unknown method 'zzz'"):
        expand(study_from(SMALL), refuse)
    with pytest.raises(ConfigError, match="factors.seed: got 'one', allowed is a whole number"):
        expand(study_from(SMALL | {"factors": SMALL["factors"] | {"seed": ["one"]}}), resolve)


def test_identities():
    base = resolve(["env=a", "seed=0", "run_dir=x"])
    assert identity_of(base, "d") == identity_of({**base, "run_dir": "y", "overwrite": True}, "d")
    assert identity_of(base, "d") != identity_of(base, "e")
    assert identity_of(base, "d") != identity_of({**base, "seed": 1}, "d")
    moved = {**base, "dataset": base["dataset"] | {"root": "elsewhere"}}
    assert data_key(moved) == data_key(base)
    shared = {**base, "dataset": base["dataset"] | {"collector": {"kind": "ray", "workers": 2}}}
    assert data_key(shared) == data_key(base) and identity_of(shared, "d") == identity_of(base, "d")
    assert data_key({**base, "dataset": base["dataset"] | {"path": "my/data"}}) != data_key(base)
    changed = {**base, "dataset": base["dataset"] | {"recipe": "paper"}}
    assert differences(base, changed) == {"dataset.recipe": ("small", "paper")}
    assert differences({"rate": 1.0, "new": None}, {"rate": 1}) == {}


def test_an_override_of_every_run_replaces_the_studys_own():
    study = load_study("table1", ["+preset=quick", "+schedule.updates=80", "+preset=smoke"])
    assert study.fixed == ["schedule.policy_start=0", "schedule.updates=80", "preset=smoke"]


def test_an_override_of_every_run_that_a_level_sets_is_refused():
    message = r"\+schedule.policy_start .* level 'end_to_end' of variant sets schedule.policy_start=0\."
    with pytest.raises(StudyError, match=message):
        load_study("departures", ["+schedule.policy_start=0.3"])
    with pytest.raises(StudyError, match="level 'as_written' of variant"):
        load_study("departures", ["+representation.as_written=false"])
    study = load_study("departures", ["variants=[ctmrl,entropy]", "+schedule.policy_start=0.3"])
    assert study.fixed[-1] == "schedule.policy_start=0.3"


def test_the_order_of_the_runners_options_does_not_matter():
    changes = ["runner.workers=4", "runner=ray", "runner.address=auto"]
    for order in (changes, changes[::-1]):
        assert load_study("quick", order).runner == {"name": "ray", "workers": 4, "address": "auto"}


def test_a_baseline_may_be_a_number():
    assert load_study("table3", ["report.baseline=16"]).baseline == "16"
    assert load_study("table3", ["report.paper_columns={8: full}"]).report.paper_columns == {"8": "full"}


def test_a_selection_without_the_baseline_compares_with_its_first_level():
    assert load_study("table1", ["methods=[csro,focal]"]).baseline == "csro"
    assert load_study("table1", ["methods=[csro,ctmrl]"]).baseline == "ctmrl"
    assert load_study("table3", ["codes=[64]"]).baseline == "64"
    with pytest.raises(ConfigError, match="report.baseline.*Did you mean 'csro'"):
        load_study("table1", ["methods=[csro,focal]", "report.baseline=csr"])


def test_a_value_of_the_seed_is_resolved_for_every_seed():
    resolved = []

    def resolve(overrides):
        resolved.append(tuple(overrides))
        seed = next((each.removeprefix("seed=") for each in overrides if each.startswith("seed=")), "0")
        return {"env": "a", "seed": int(seed), "dataset": {"seed": int(seed)}}

    study = study_from(SMALL | {"fixed": ["dataset.seed=${seed}"]})
    runs = expand(study, resolve)
    assert all(run.configuration["dataset"]["seed"] == run.configuration["seed"] for run in runs)
    assert len({run.data for run in runs}) == len(study.levels("seed"))
    resolved.clear()
    expand(study_from(SMALL), resolve)
    assert len(resolved) == len(runs) / len(study.levels("seed"))


def test_a_users_choice_is_resolved_for_every_seed(monkeypatch):
    monkeypatch.setattr("ctmrl_torchrl.studies.grid.code_of", lambda configuration: "digest")

    def resolve(overrides):
        seed = next((each.removeprefix("seed=") for each in overrides if each.startswith("seed=")), "0")
        return {"env": "a", "seed": int(seed), "dataset": {"seed": int(seed)}}  # as registered: "${seed}"

    runs = expand(study_from(SMALL), resolve)
    assert all(run.configuration["dataset"]["seed"] == run.configuration["seed"] for run in runs)
