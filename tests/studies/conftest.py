"""A study of six runs that take no time."""

from __future__ import annotations

import pytest
from fakes import FakeData, FakeRun, resolve
from study_content import CONTENT

from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.study import Study


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
