"""Tables as Markdown, CSV and LaTeX: what is not a plain number, and texts that mean something to LaTeX."""

from __future__ import annotations

import csv
import io

from ctmrl_torchrl.studies.cells import Cell, Table
from ctmrl_torchrl.studies.formats import to_csv, to_latex, to_markdown
from ctmrl_torchrl.studies.page import _table
from ctmrl_torchrl.studies.tables import study_tables


def test_the_best_known_return_says_what_it_is(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    returns = study_tables(study.results())[0]
    assert "| -20.00 | -3.85 (optimum) |" in to_markdown(returns)
    assert r"& $-20.00$ & $-3.85$ (optimum) \\" in to_latex(returns)
    row = next(csv.DictReader(io.StringIO(to_csv(returns))))
    assert (row["random"], row["best known"], row["best known kind"]) == ("-20.0", "-3.855", "optimum")
    assert not {"random low", "random runs", "random kind", "best known low"} & row.keys()


def test_what_a_number_is_stands_beside_its_remark():
    cell = Cell(1.0, (0.5, 1.5), text="oracle", runs=1, planned=2)
    assert cell.plain(1) == "1.0 [0.5, 1.5] (oracle) (1 of 2 runs)"


def test_rows_that_begin_with_a_bracket_or_a_star():
    rows = tuple((Cell(text=text), Cell(1.0)) for text in ("[1,1]", "*", "plain"))
    lines = to_latex(Table("name", "Title", ("[sizes]", "[a]"), rows, 1)).splitlines()
    assert [line for line in lines if line.endswith(r"\\")] == [
        r"{}[sizes] & [a] \\", r"{}[1,1] & $1.0$ \\", r"{}* & $1.0$ \\", r"plain & $1.0$ \\",
    ]  # fmt: skip


def test_texts_of_several_lines():
    table = Table("name", "Title", ("a", "b"), ((Cell(text="x\ny"), Cell(1.0)),), 1, ("One.\n\n  Two.\n",))
    assert r"\caption{Title. One. Two.}" in to_latex(table) and r"x y & $1.0$ \\" in to_latex(table)
    assert to_markdown(table).endswith("| x y | 1.0 |\n\n- One. Two.\n")


def test_a_number_that_rounds_to_zero_has_no_sign():
    table = Table("name", "Title", ("a", "b"), ((Cell(text="x"), Cell(-1e-5, (-2e-5, -1e-5))),), 3)
    assert "| x | 0.000 [0.000, 0.000] |" in to_markdown(table)
    assert r"$0.000\,[0.000, 0.000]$" in to_latex(table)
    assert "\u22120.000" not in _table(table) and "0.000" in _table(table)


def test_no_name_breaks_a_table():
    table = Table("t", "T", ("method", "np"), ((Cell(text="a_b|c&<d>&lt;"), Cell(value=1.0)),))
    assert r"a\_b\textbar{}c\&\textless{}d\textgreater{}" in to_latex(table)
    assert r"a_b\|c&&lt;d>&amp;lt;" in to_markdown(table)
