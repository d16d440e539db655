"""The report of a study: tables in three formats, figures, a page that needs no network."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from PIL import Image
from reading import cells, change

from ctmrl_torchrl.evaluation import (
    bootstrap_interval,
    interquartile_mean,
    normalised_scores,
    probability_of_improvement,
)
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.cells import Cell, Table, mark_best
from ctmrl_torchrl.studies.config import load_study
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.formats import to_csv, to_latex, to_markdown
from ctmrl_torchrl.studies.page import write_run_page
from ctmrl_torchrl.studies.page_parts import compact_png
from ctmrl_torchrl.studies.tables import study_tables

TABLE = Table(
    "returns-test",
    "Return on unseen test tasks",
    ("env", "protocol", "ctmrl", "my_method"),
    (
        (Cell(text="a|b"), Cell(text="np"), Cell(-4.5, (-5.0, -4.0), runs=2, planned=2, best=True),
         Cell(-4.75, runs=1, planned=2, failed=1, within=True)),
        (Cell(text="b"), Cell(text="np"), Cell(planned=2, failed=2), Cell(planned=2)),
    ),
    2,
    ("A note of 5 %.",),
)  # fmt: skip


def test_markdown():
    assert to_markdown(TABLE) == (
        "### Return on unseen test tasks\n\n"
        "| env | protocol | ctmrl | my_method |\n"
        "| --- | --- | --- | --- |\n"
        "| a\\|b | np | **-4.50** [-5.00, -4.00] | <ins>-4.75</ins> (1 of 2 runs, 1 failed) |\n"
        "| b | np | failed | not done |\n\n- A note of 5 %.\n"
    )


def test_csv():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0]["env"] == "a|b" and float(rows[0]["ctmrl"]) == -4.5
    assert [rows[0][f"my_method {name}"] for name in ("runs", "failed")] == ["1", "1"]
    assert (rows[1]["ctmrl"], rows[1]["ctmrl failed"]) == ("", "2")
    # no number of my_method has an interval, and none says what it is
    assert list(rows[0]) == [
        "env", "protocol", "ctmrl", "ctmrl low", "ctmrl high", "ctmrl runs", "ctmrl failed",
        "my_method", "my_method runs", "my_method failed",
    ]  # fmt: skip


def test_latex():
    text = to_latex(TABLE)
    assert r"\begin{tabular}{llrr}" in text and r"\toprule" in text and r"my\_method" in text
    assert (
        r"a\textbar{}b & np & $\mathbf{-4.50}\,[-5.00, -4.00]$ & $\underline{-4.75}$ (1 of 2 runs, 1 failed) \\"
        in text
    )
    assert r"5 \%" in text and text.count("{") == text.count("}")


def test_best_and_what_lies_within_its_interval():
    marked = mark_best([Cell(1.0), Cell(3.0, (2.0, 4.0)), Cell(2.0), Cell(None), Cell(1.99)])
    assert [cell.best for cell in marked] == [False, True, False, False, False]
    assert [cell.within for cell in marked] == [False, False, True, False, False]
    # a best of a single seed has no interval, so nothing is said to be within it
    assert not any(cell.within for cell in mark_best([Cell(3.0), Cell(2.999, (2.0, 4.0))]))
    assert not mark_best([Cell(1.0), Cell()])[0].best  # nothing to compare with
    assert [cell.best for cell in mark_best([Cell(1.0), Cell(1.0)])] == [True, True]


@pytest.fixture
def finished(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    return study


def test_the_numbers_of_the_tables(finished):
    results = finished.results()
    returns, aggregates, *_ = study_tables(results)
    ctmrl, focal = (
        {
            env: results.scores({"env": env}, method, "test", "np")
            for env in ("point_robot", "sparse_point_robot")
        }
        for method in ("ctmrl", "focal")
    )
    (row,) = cells(returns, env="Point-Robot", protocol="np")
    cell = row[returns.header.index("ctmrl")]
    assert len(ctmrl["point_robot"]) == cell.runs == 3
    assert cell.value == pytest.approx(sum(ctmrl["point_robot"]) / 3)
    assert cell.interval == bootstrap_interval(ctmrl["point_robot"])
    (published,) = cells(returns, env="Point-Robot", protocol="published (other data)")
    assert published[2].value == -4.81 and published[3].value is None  # the paper has no focal

    scores = [
        {env: normalised_scores(values, -20.0, -3.855) for env, values in each.items()}
        for each in (ctmrl, focal)
    ]
    middle, _, wins = (row for row in aggregates.rows if row[0].text == "np")
    assert middle[2].value == interquartile_mean(scores[0]).value
    assert wins[1].text == "probability that ctmrl is better"
    assert wins[2].value is None and wins[3].value == probability_of_improvement(*scores).value


def test_returns_after_few_episodes(make_study, here):
    """The runs measure three episodes, so there is no row for five collected ones."""
    study = make_study({"report": {"after": [1, 2, 5]}})
    study.run(here, progress=False)
    results = study.results()
    *_, early = study_tables(results)
    assert early.name == "early-test"
    assert [row[2].text for row in cells(early, env="Point-Robot", protocol="np")] == ["1", "2"]
    first, last = cells(early, env="Point-Robot", protocol="np")
    column = early.header.index("ctmrl")
    curves = [each.summary["returns"]["test"]["np"]["per_episode"] for each in results.runs
              if each.run.levels["env"] == "point_robot" and each.run.levels["method"] == "ctmrl"]  # fmt: skip
    assert first[column].value == -6.0 == curves[0][1] and first[column].runs == 3
    assert last[column].value == pytest.approx(sum(curve[2] for curve in curves) / 3)
    assert study_tables(replace_after(results, []))[-1].name != "early-test"


def replace_after(results, after):
    report = dataclasses.replace(results.config.report, after=after)
    return dataclasses.replace(results, config=dataclasses.replace(results.config, report=report))


def test_one_seed_has_no_interval(make_study, here):
    study = make_study({"factors": {"env": ["point_robot"], "method": ["ctmrl", "focal"], "seed": [0]}})
    study.run(here, progress=False)
    for table in study_tables(study.results()):
        for row in table.rows:
            if "published" not in row[1].text:
                assert [cell.interval for cell in row if cell.value is not None] == [None] * sum(
                    cell.value is not None for cell in row
                )
    assert study.report().exists()


def test_an_environment_that_a_method_lacks_stays_out_of_the_aggregates(make_study, here):
    study = make_study(failing=("env=sparse_point_robot",))
    study.run(here, progress=False)
    aggregates = study_tables(study.results())[1]
    assert "np, offline: over Point-Robot." in aggregates.notes
    assert any("without Sparse-Point-Robot" in note for note in aggregates.notes)
    assert any(note.startswith("6 of 12 runs failed") for note in aggregates.notes)


def test_what_differs_between_rows_is_said(make_study, here):
    envs = {"short": ["env=point_robot"], "long": ["env=sparse_point_robot", "schedule.updates=6"]}
    study = make_study({"factors": {"where": envs, "method": ["ctmrl", "focal"], "seed": [0]}})
    study.run(here, progress=False)
    notes = study.results().notes
    assert "The rows differ in schedule.updates (8: short; 6: long)." in notes
    assert not any(note.startswith("The rows differ in env") for note in notes)


def test_what_differs_between_methods_is_said(make_study, here):
    methods = {
        "ctmrl": ["schedule.policy_start=0.5"],
        "other": ["policy_loss.name=iql", "schedule.updates=6", "schedule.policy_start=0.0"],
    }
    study = make_study({"factors": {"method": methods, "seed": [0, 1]}})
    study.run(here, progress=False)
    notes = study.results().notes
    assert "The levels of method differ in policy_loss.name as well (ctmrl: brac_sac, other: iql)." in notes
    assert "The levels of method differ in schedule.updates as well (ctmrl: 8, other: 6)." in notes
    assert "The levels of method differ in schedule.policy_start as well (ctmrl: 0.5, other: 0.0)." in notes


def test_runs_that_differ_in_what_is_no_factor_are_refused(finished):
    folder = finished.results().runs[3].folder
    original = (folder / "config.yaml").read_text()
    change(folder / "config.yaml", yaml, schedule={"updates": 99})
    with pytest.raises(
        StudyError, match="method=focal seed=0 .* its schedule.updates is 99, the study has 8"
    ):
        finished.results()
    (folder / "config.yaml").write_text(original)
    change(folder / "config.yaml", yaml, output={"figures": False}, run_dir="elsewhere")  # of no consequence
    finished.results()
    change(folder / "summary.json", json, updates=7)
    with pytest.raises(StudyError, match="its schedule.updates is 7"):
        finished.results()


def test_runs_on_other_data_are_refused(make_study, here):
    factors = {"env": ["point_robot"], "method": ["ctmrl"], "seed": [0]}
    make_study({"factors": factors}).run(here, progress=False)
    study = make_study({"factors": factors | {"seed": [0, 1]}}, dataset="paper")
    study.run(here, progress=False)
    with pytest.raises(StudyError, match="data differ in recipe, which is 'paper' and 'small'"):
        study.report()


def test_a_summary_that_is_broken_is_named(finished):
    folder = finished.results().runs[0].folder
    (folder / "summary.json").write_text("{")
    with pytest.raises(StudyError, match="summary of env=point_robot method=ctmrl seed=0 cannot be used"):
        finished.results()


def test_nothing_to_report(make_study, here):
    study = make_study(failing=("preset=smoke",))
    with pytest.raises(StudyError, match="has no finished run to report"):
        study.report()


class Page(html.parser.HTMLParser):
    """Checks that tags close, and gathers what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(file):
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert page.open == []
    assert all(address.startswith("data:image/png;base64,") for address in page.fetched)
    return page


def test_the_report(finished, tmp_path):
    file = finished.report(tmp_path / "report")
    page = read_page(file)
    text = " ".join(page.text)
    assert (
        len(page.fetched) == 6 and page.tags.count("table") >= 6
    )  # per protocol: intervals, curves, profile
    for expected in ("12 of 12 runs done", "Return on unseen test tasks", "published (other data)",
                     "ctmrl train env=point_robot method=ctmrl", "ctmrl study run small.yaml",
                     "torchrl"):  # fmt: skip
        assert expected in text, expected
    assert not re.search(r"https?://|@import|url\(", file.read_text(encoding="utf-8"))
    assert file.stat().st_size < 3_000_000
    names = {each.name for each in file.parent.iterdir()}
    assert names == {
        "report.html", "tables.md", "results.json", "small.yaml", "figures", "returns-test.csv",
        "returns-test.tex",
        "returns-train.csv", "returns-train.tex", "aggregates-test.csv", "aggregates-test.tex",
        "aggregates-train.csv", "aggregates-train.tex", "early-test.csv", "early-test.tex",
    }  # fmt: skip
    assert load_study(file.parent / "small.yaml") == finished.config
    numbers = json.loads((file.parent / "results.json").read_text())
    assert numbers["runs"][0]["returns"]["test"]["np"] == pytest.approx(
        finished.results().runs[0].summary["returns"]["test"]["np"]["mean"], abs=1e-6
    )
    for entry, run in zip(numbers["runs"], finished.results().runs, strict=True):
        noise = run.summary["returns"]["train"]["np"]["context_noise"]  # None with seed 0
        shown = entry["context_noise"]["train"].get("np")
        assert shown == (None if run.run.levels["seed"] == "0" else pytest.approx(noise, abs=1e-6))
        assert entry.get("codebook") == ({"dead_codes": 1} if run.run.levels["method"] == "ctmrl" else None)


@pytest.mark.ci
def test_figures_of_chosen_protocols(make_study, here):
    """The page has the figures of one protocol, the tables those of all."""
    study = make_study({"report": {"figure_protocols": ["np"]}})
    study.run(here, progress=False)
    page = read_page(study.report())
    assert len(page.fetched) == 3
    assert {"np", "offline"} <= {text.strip() for text in page.text}
    with pytest.raises(ConfigError, match=r"figure_protocols.*Did you mean 'np'"):  # before any run
        make_study({"protocols": [], "report": {"figure_protocols": ["npp"]}})


def test_failed_runs_and_their_errors_are_on_the_page(make_study, here):
    study = make_study({"description": "<b>& co"}, failing=("method=focal",))
    study.run(here, progress=False)
    file = study.report()
    text = " ".join(read_page(file).text)
    assert "Failed runs" in text and "the loss is not finite" in text and "<b>& co" in text
    assert "<b>& co" not in file.read_text()


def test_the_page_of_a_single_run(finished):
    folder = finished.results().runs[0].folder
    page = read_page(write_run_page(folder))
    text = " ".join(page.text)
    assert "Return on unseen test tasks" in text and "intervals over tasks, of one seed" in text
    assert "before adaptation" in text and "schedule:" in text


@pytest.mark.ci
def test_a_report_that_grows_again_knows_its_own_files(make_study, here, tmp_path):
    """Tables of a larger earlier report stay its own: a later one may replace them."""
    splits = (["test", "train"], ["test"], ["test", "train"])
    for split in splits:
        study = make_study({"report": {"splits": split}})
        study.run(here, progress=False)
        page = study.report()
    (page.parent / "mine.csv").write_text("mine")
    study.report()
    assert (page.parent / "mine.csv").read_text() == "mine"


def test_images_of_a_page_take_less_space_and_look_the_same(tmp_path):
    axes = plt.figure(figsize=(8, 4)).subplots()
    for shift, color in enumerate(("tab:blue", "tab:orange", "tab:green")):
        axes.plot([math.sin(x / 9 + shift) for x in range(90)], color=color, label=color, alpha=0.8)
        axes.fill_between(range(90), shift - 0.2, shift + 0.2, color=color, alpha=0.2)
    axes.legend()
    axes.figure.savefig(tmp_path / "figure.png", dpi=110)
    plt.close(axes.figure)
    compact = compact_png(tmp_path / "figure.png")
    assert len(compact) < 0.5 * (tmp_path / "figure.png").stat().st_size
    before, after = (
        np.asarray(Image.open(file).convert("RGB"), dtype=int)
        for file in (tmp_path / "figure.png", io.BytesIO(compact))
    )
    assert np.abs(before - after).mean() < 1 and np.abs(before - after).max() < 40
    Image.new("L", (3, 3)).save(tmp_path / "tiny.png")  # no gain, and no alpha channel
    assert len(compact_png(tmp_path / "tiny.png")) <= (tmp_path / "tiny.png").stat().st_size


def test_small_values_of_factors_are_not_rounded(make_study, here):
    study = make_study({"factors": {"optimizer.policy_rate": [3e-7, 5e-7], "method": ["ctmrl"], "seed": [0]}})
    study.run(here, progress=False)
    content = json.loads((study.report().parent / "results.json").read_text())
    assert content["study"]["factors"]["optimizer.policy_rate"] == [3e-7, 5e-7]


def test_a_damaged_figure_of_a_run_is_said_in_its_place(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    folder = next(each.folder for each in study.results().runs)
    (folder / "figures").mkdir()
    (folder / "figures" / "adaptation.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = write_run_page(folder)
    assert "This figure cannot be read" in page.read_text(encoding="utf-8")
