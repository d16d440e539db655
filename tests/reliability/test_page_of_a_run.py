"""Every finished run has its page, and one that cannot be written leaves the run done."""

from __future__ import annotations

import errno
import html
import json
import os
import re
import subprocess
import sys

import pytest

import ctmrl_torchrl
from ctmrl_torchrl.cli import main
from ctmrl_torchrl.evaluation import load_summary
from ctmrl_torchrl.studies import page as page_module
from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.study import Study
from ctmrl_torchrl.training.run_record import RunRecord

SMALL = [
    "preset=smoke",
    "schedule.updates=6",
    "batch.tasks=4",
    "batch.transitions=8",
    "sizes.encoder_hidden=[8]",
    "sizes.policy_hidden=[8]",
    "sizes.predictor_hidden=[8]",
    "encoder.context_dim=4",
    "evaluation.every=0",
    "evaluation.episodes=3",
    "evaluation.random_episodes=2",
    "evaluation.final_repeats=1",
    "evaluation.protocols=[np]",
    "output.logger=none",
    "output.progress=false",
    "device=cpu",
]
QUICK = [*SMALL, "output.figures=false"]


@pytest.fixture(scope="module")
def place(dataset_root):
    return f"dataset.root={dataset_root}"


@pytest.fixture(scope="module")
def drawn(place, tmp_path_factory):
    """A run with all its figures."""
    folder = tmp_path_factory.mktemp("runs") / "ctmrl"
    return folder, ctmrl_torchrl.run([*SMALL, "representation.codes=3", place, f"run_dir={folder}"])


@pytest.fixture
def told(monkeypatch):
    """The warnings and the messages of runs."""
    lines = {"warning": [], "info": []}
    for kind, found in lines.items():
        monkeypatch.setattr(
            f"ctmrl_torchrl.training.experiment.torchrl_logger.{kind}",
            lambda message, *_, found=found: found.append(message),
        )
    return lines


@pytest.mark.ci
def test_the_page_has_all_that_the_run_found_and_was_made_with(drawn):
    folder, summary = drawn
    page = (folder / "report.html").read_text(encoding="utf-8")
    text = html.unescape(page)
    for split in ("test", "train"):
        mean = f"{summary['returns'][split]['np']['mean']:.3f}".replace("-", "\u2212")
        assert mean in text, split
    assert "ctmrl + brac_sac" in text and summary["command"] in text
    assert (folder / "config.yaml").read_text(encoding="utf-8").splitlines()[-1] in text
    for package, version in summary["versions"].items():
        assert f"<th>{package}</th><td>{version}</td>" in text
    fetched = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(fetched) == len(list((folder / "figures").glob("*.png"))) >= 6
    assert all(address.startswith("data:image/png;base64,") for address in fetched)
    assert not re.search(r"https?://|@import|url\(|<link", page)
    assert "report.html" in RunRecord.read(folder).files


@pytest.mark.ci
def test_a_codebook_is_drawn_and_no_method_without_one(drawn, place, tmp_path):
    folder, summary = drawn
    assert (folder / "figures" / "code_distances.png").is_file() and "codebook" in summary
    ctmrl_torchrl.run([*SMALL, "method=focal", place, f"run_dir={tmp_path}"])
    assert (tmp_path / "figures" / "context_map.png").is_file()
    assert not (tmp_path / "figures" / "code_distances.png").exists()
    pages = [(each / "report.html").read_text(encoding="utf-8") for each in (folder, tmp_path)]
    assert ["Code distances" in page for page in pages] == [True, False]


def test_a_page_that_cannot_be_written_is_a_warning(place, tmp_path, monkeypatch, told):
    def full(file, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(page_module, "write_text", full)
    summary = ctmrl_torchrl.run([*QUICK, place, f"run_dir={tmp_path}"])
    assert load_summary(tmp_path / "summary.json") == summary
    assert not (tmp_path / "report.html").exists()
    assert [line for line in told["warning"] if "page left out" in line and "No space left" in line]
    assert told["info"][-1] == f"results are in {tmp_path}"
    assert "report.html" not in RunRecord.read(tmp_path).files


def test_the_page_is_replaced_with_its_run(place, tmp_path, told, capsys):
    command = ["train", *QUICK, place, f"run_dir={tmp_path}"]
    assert main([*command, "seed=1"]) == 0
    assert told["info"][-1] == f"results are in {tmp_path}; see report.html first"
    assert "seed 1" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*command, "seed=1", f"resume={tmp_path}", "schedule.updates=6"]) == 0
    assert main([*command, "seed=2", "overwrite=true"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "seed 2" in page and "seed 1" not in page
    assert not list(tmp_path.glob("replaced-run*")) and told["warning"] == []


def test_a_users_page_of_this_name_is_kept(place, tmp_path, told):
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    for more in ([], ["overwrite=true"]):
        ctmrl_torchrl.run([*QUICK, place, f"run_dir={tmp_path}", *more])
        assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
        assert "page left out (of the run): StudyError" in told["warning"][-1]


def test_several_seeds_have_a_page_each(place, tmp_path):
    assert main(["train", *QUICK, place, f"run_dir={tmp_path}/${{seed}}", "seeds=[0,1]"]) == 0
    for seed in (0, 1):
        assert f"seed {seed}" in (tmp_path / str(seed) / "report.html").read_text(encoding="utf-8")


@pytest.mark.ci
def test_a_start_does_not_load_what_a_page_needs():
    code = "import sys, ctmrl_torchrl; ctmrl_torchrl.run; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


class Here:
    """A runner that needs no process."""

    workers = 1

    def run(self, work, jobs):
        for job in jobs:
            yield work(job)


@pytest.mark.ci
def test_the_runs_of_a_study_have_pages_and_its_page_shows_their_codes(place, tmp_path):
    factors = {"method": ["ctmrl", "focal"], "seed": [0]}
    content = {"name": "pages", "factors": factors, "fixed": [*SMALL, place], "compare": "method"}
    study = Study(study_from(content), tmp_path / "studies")
    study.run(Here(), progress=False)
    runs = study.results().runs
    assert [each.state for each in runs] == ["done", "done"]
    assert all((each.folder / "report.html").is_file() for each in runs)
    page = study.report().read_text(encoding="utf-8")
    assert page.count("<figcaption>Distances between codes: method=ctmrl") == 1
    assert "Distances between codes: method=focal" not in page
    record = json.loads((study.store / "records" / f"{runs[0].key}.json").read_text(encoding="utf-8"))
    assert record["attempts"][-1]["state"] == "done" and "error" not in record["attempts"][-1]
