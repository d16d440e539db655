"""Studies that take no time, and their reports."""

from __future__ import annotations

import dataclasses

import pytest
from fakes import FakeData, FakeRun, resolve
from reports import FACTORS
from study_content import CONTENT

from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.files import write_json
from ctmrl_torchrl.studies.origin import origin_of
from ctmrl_torchrl.studies.results_file import numbers_of
from ctmrl_torchrl.studies.study import Study
from ctmrl_torchrl.studies.tables import study_tables


class Here:
    """A runner that needs no process."""

    workers = 1

    def run(self, work, jobs):
        for job in jobs:
            yield work(job)


@pytest.fixture
def here():
    return Here()


@pytest.fixture
def make_study(tmp_path):
    def make(changes=None, root="studies", **options):
        run = FakeRun(str(tmp_path / "log"), **options)
        data = FakeData(str(tmp_path / "data.log"))
        content = CONTENT | (changes or {})
        return Study(study_from(content), tmp_path / root, resolve=resolve, prepare=data, execute=run)

    return make


@pytest.fixture
def log(tmp_path):
    def read(kind="", name="log"):
        file = tmp_path / name
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(kind)]

    return read


@pytest.fixture
def make_report(make_study, here, tmp_path):
    """Makes a report's folder with its results.json alone, without tables, figures and page, unless ``whole``."""

    def make(name, factors=None, folder="reports", options=None, whole=False, only_factors=False, **changes):
        factors = factors if only_factors else FACTORS | (factors or {})
        content = {"name": name, "factors": factors} | changes
        study = make_study(content, **(options or {}))
        study.run(here, progress=False)
        if whole:
            return study.report(tmp_path / folder / name).parent
        results = study.results()
        numbers = numbers_of(results) | {"origin": dataclasses.asdict(origin_of(results))}
        return write_json(tmp_path / folder / name / "results.json", numbers).parent

    return make


@pytest.fixture
def whole_tables(make_study, here):
    study = make_study({"name": "whole", "factors": FACTORS})
    study.run(here, progress=False)
    return study_tables(study.results())
