"""Which runs of several reports can be compared."""

from __future__ import annotations

import pytest
from reports import change, earlier

from ctmrl_torchrl.studies.combining import combine_reports
from ctmrl_torchrl.studies.errors import StudyError

MAPPED = {"ctmrl": ["method=ctmrl"], "focal": ["method=focal"]}


REFUSED = {
    "the same run": (
        {},
        {},
        "one and other both have the run env=point_robot comparison=shared method=ctmrl",
    ),
    "other settings": (
        {"fixed": ["schedule.updates=9"]},
        {"fixed": ["schedule.updates=7"], "factors": {"seed": [5]}},
        "env=point_robot comparison=shared: schedule.updates is 9 in one and 7 in other, and no factor",
    ),
    "a setting of one": (
        {},
        {"fixed": ["schedule.updates=9"], "factors": {"seed": [5]}},
        "schedule.updates is not set in one and 9 in other",
    ),
    "null": (
        {},
        {"fixed": ["context.behaviours=null"], "factors": {"seed": [5]}, "earlier": True},
        "context.behaviours is not set in one and None in other",
    ),
    "other methods with other settings": (
        {"factors": {"method": ["ctmrl"]}},
        {"fixed": ["schedule.updates=9"], "factors": {"method": ["focal"]}},
        "schedule.updates is not set in one and 9 in other",
    ),
    "another meaning": (
        {"factors": {"method": MAPPED}},
        {"factors": {"method": MAPPED | {"ctmrl": ["method=ctmrl", "preset=cpu"]}, "seed": [5]}},
        "The level method=ctmrl: preset is not set in one and cpu in other",
    ),
    "another comparison": (
        {},
        {"compare": "env", "factors": {"seed": [5]}},
        "one compares the levels of method, other those of env",
    ),
    "another factor": (
        {},
        {"factors": {"variant": {"full": []}, "seed": [5]}},
        "one lacks the factor variant, and its runs do not say their variant",
    ),
    "given data": (
        {"fixed": ["dataset.path=/a"], "earlier": True},
        {"fixed": ["dataset.path=/b"], "factors": {"seed": [5]}, "earlier": True},
        "dataset.path is /a in one and /b in other",
    ),
}


@pytest.mark.parametrize(("first", "second", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared(make_report, first, second, message):
    places = []
    for name, changes in (("one", dict(first)), ("other", dict(second))):
        early = changes.pop("earlier", False)
        place = make_report(name, changes.pop("factors", None), **changes)
        places.append(change(place, earlier) if early else place)
    with pytest.raises(StudyError, match=message):
        combine_reports(places)


def test_a_changed_default(make_report):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})
    change(other, lambda content: content["settings"].update(lr=0.1))
    with pytest.raises(StudyError, match="method=ctmrl: lr is not set in one and 0.1 in other"):
        combine_reports([one, other])


def test_protocols_and_what_depends_on_the_seed_may_differ(make_report):
    fixed = ["dataset.seed=${seed}"]
    one = make_report("one", {"seed": [0]}, fixed=fixed, protocols=["np"])
    other = make_report("other", {"seed": [1, 2]}, fixed=fixed, protocols=["np", "offline"])

    def collected_for_each_seed(content):
        for run in content["runs"]:
            run["data"] = f"data{run['levels']['seed']}"
            run["settings"]["dataset.seed"] = int(run["levels"]["seed"])
        content["settings"].pop("dataset.seed", None)

    for each in (one, other):
        change(each, collected_for_each_seed)
    results, _ = combine_reports([one, other])
    assert len(results.done()) == 12 and results.protocols() == ["np", "offline"]


def test_compared_data_differ(make_report):
    recipes = {"small": ["dataset.recipe=small"], "broad": ["dataset.recipe=broad"]}
    content = {"env": ["point_robot"], "recipe": recipes, "seed": [0, 1]}
    changes = {"only_factors": True, "compare": "recipe"}

    def collected(content):
        for run in content["runs"]:
            run["data"] = run["levels"]["recipe"]

    parts = [
        change(make_report(name, content | {"recipe": {name: recipes[name]}}, **changes), collected)
        for name in recipes
    ]
    results, _ = combine_reports(parts)
    assert results.compared == ("small", "broad")


def test_other_data(make_report):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})

    def collected_anew(content):
        for run in content["runs"]:
            run["data"] = "beef"

    change(other, collected_anew)
    with pytest.raises(
        StudyError, match=r"Runs with env=point_robot had the data \w+ in one and beef in other"
    ):
        combine_reports([one, other])


def test_the_same_settings_in_other_words(make_report):
    words = {"ctmrl": ["method=ctmrl", "lr=0.10"], "focal": ["method=focal"]}
    one = make_report("one", {"seed": [0], "method": words}, fixed=["compile=recorded", "schedule.updates=8"])
    words = {"ctmrl": ["method=ctmrl", "lr=0.1"], "focal": ["method=focal"]}
    other = make_report("other", {"seed": [1], "method": words}, fixed=["compile=False"])
    results, _ = combine_reports([one, other])  # eight updates are the usual ones
    assert len(results.done()) == 8
