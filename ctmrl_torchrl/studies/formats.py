"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence

from ctmrl_torchrl.studies.cells import Cell, Table
from ctmrl_torchrl.studies.results_table import markdown_table

__all__ = ["to_csv", "to_latex", "to_markdown"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def to_markdown(table: Table) -> str:
    """A heading, the table and its notes; the best value is bold, values within its interval are underlined."""
    rows = [[_marked(cell, table.digits, "**{}**", "<ins>{}</ins>") for cell in row] for row in table.rows]
    header = [_piped(name) for name in table.header]
    notes = "\n".join(f"- {_one_line(note)}" for note in table.notes)
    return f"### {table.title}\n\n{markdown_table([header, *rows])}\n\n{notes}\n"


def to_csv(table: Table) -> str:
    """One line per row in full precision; a number has columns for its interval, its runs and what it is.

    A column that would be empty in every row is omitted.
    """
    columns = [_columns(name, [row[at] for row in table.rows]) for at, name in enumerate(table.header)]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(zip(*itertools.chain(*columns), strict=True))
    return stream.getvalue()


def _columns(name: str, cells: Sequence[Cell]) -> list[list[object]]:
    """The columns of a CSV file for one column of a table, each with its name."""
    counted, ranged = any(cell.planned for cell in cells), any(cell.interval for cell in cells)
    texts: list[object] = [cell.text for cell in cells]
    if not counted and all(cell.value is None for cell in cells):
        return [[name, *texts]]
    columns: list[list[object]] = [[name, *("" if cell.value is None else cell.value for cell in cells)]]
    if ranged:
        for at, end in enumerate(("low", "high")):
            columns.append([f"{name} {end}", *(cell.interval[at] if cell.interval else "" for cell in cells)])
    if counted:
        columns.append([f"{name} runs", *(cell.runs if cell.planned else "" for cell in cells)])
        columns.append([f"{name} failed", *(cell.failed if cell.planned else "" for cell in cells)])
    return [*columns, *([[f"{name} kind", *texts]] if any(texts) else [])]


def to_latex(table: Table) -> str:
    """A ``table`` environment for the package ``booktabs``."""
    texts = [all(row[column].value is None for row in table.rows) for column in range(len(table.header))]
    columns = "".join("l" if text else "r" for text in texts)
    header = _line([escaped(name) for name in table.header])
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        header,
        r"\midrule",
    ]
    before = None
    for row in table.rows:
        if before is not None and row[0].text != before:
            lines.append(r"\addlinespace")
        before = row[0].text
        lines.append(_line([_latex(cell, table.digits) for cell in row]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    r"""Escape a string for LaTeX, in one line.

    Examples:
        >>> escaped("95 % of np_refine")
        '95 \\% of np\\_refine'
    """
    return re.sub(r"[\\&%$#_{}~^<>|]", lambda found: _SPECIAL[found.group()], _one_line(text))


def _line(cells: Sequence[str]) -> str:
    """A row; a bracket or star at its start would be an argument of the command before it."""
    return ("{}" if cells[0].startswith(("[", "*")) else "") + " & ".join(cells) + r" \\"


def _one_line(text: str) -> str:
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())


def _latex(cell: Cell, digits: int) -> str:
    if cell.value is None:
        return escaped(cell.text or cell.remark())
    number = f"{cell.value:z.{digits}f}"
    number = rf"\mathbf{{{number}}}" if cell.best else rf"\underline{{{number}}}" if cell.within else number
    ends = (
        ""
        if cell.interval is None
        else rf"\,[{cell.interval[0]:z.{digits}f}, {cell.interval[1]:z.{digits}f}]"
    )
    remarks = "".join(f" ({escaped(each)})" for each in (cell.text, cell.remark()) if each)
    return f"${number}{ends}${remarks}"


def _marked(cell: Cell, digits: int, best: str, within: str) -> str:
    text = _piped(cell.plain(digits))
    if cell.value is None or not (cell.best or cell.within):
        return text
    number, space, rest = text.partition(" ")
    return (best if cell.best else within).format(number) + space + rest


def _piped(text: str) -> str:
    """A cell of a Markdown table, in which neither a bar ends it nor a bracket begins a tag."""
    return re.sub(r"&(?=\w+;|#)", "&amp;", _one_line(text)).replace("<", "&lt;").replace("|", "\\|")
