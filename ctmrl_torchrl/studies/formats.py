"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re

from ctmrl_torchrl.studies.cells import Cell, Table
from ctmrl_torchrl.studies.results_table import markdown_table

__all__ = ["to_csv", "to_latex", "to_markdown"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def to_markdown(table: Table) -> str:
    """A heading, the table and its notes; the best value is bold, values within its interval are underlined."""
    rows = [[_marked(cell, table.digits, "**{}**", "<ins>{}</ins>") for cell in row] for row in table.rows]
    header = [_piped(name) for name in table.header]
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"### {table.title}\n\n{markdown_table([header, *rows])}\n\n{notes}\n"


def to_csv(table: Table) -> str:
    """One line per row in full precision; each number has columns for its interval and runs."""
    numeric = [
        any(row[column].value is not None or row[column].planned for row in table.rows)
        for column in range(len(table.header))
    ]
    header: list[str] = []
    for name, is_number in zip(table.header, numeric, strict=True):
        header += (
            [name, f"{name} low", f"{name} high", f"{name} runs", f"{name} failed"] if is_number else [name]
        )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[object] = []
        for cell, is_number in zip(row, numeric, strict=True):
            if not is_number:
                line.append(cell.text)
                continue
            low, high = cell.interval or ("", "")
            counts = [cell.runs, cell.failed] if cell.planned else ["", ""]
            line += ["" if cell.value is None else cell.value, low, high, *counts]
        writer.writerow(line)
    return stream.getvalue()


def to_latex(table: Table) -> str:
    """A ``table`` environment for the package ``booktabs``."""
    texts = [all(row[column].value is None for row in table.rows) for column in range(len(table.header))]
    columns = "".join("l" if text else "r" for text in texts)
    header = " & ".join(escaped(name) for name in table.header)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{header} \\",
        r"\midrule",
    ]
    before = None
    for row in table.rows:
        if before is not None and row[0].text != before:
            lines.append(r"\addlinespace")
        before = row[0].text
        lines.append(" & ".join(_latex(cell, table.digits) for cell in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    r"""Escape a string for LaTeX.

    Examples:
        >>> escaped("95 % of np_refine")
        '95 \\% of np\\_refine'
    """
    return re.sub(r"[\\&%$#_{}~^<>]", lambda found: _SPECIAL[found.group()], text)


def _latex(cell: Cell, digits: int) -> str:
    if cell.value is None:
        return escaped(cell.text or cell.remark())
    number = f"{cell.value:.{digits}f}"
    number = rf"\mathbf{{{number}}}" if cell.best else rf"\underline{{{number}}}" if cell.within else number
    ends = (
        "" if cell.interval is None else rf"\,[{cell.interval[0]:.{digits}f}, {cell.interval[1]:.{digits}f}]"
    )
    remark = f" ({escaped(cell.remark())})" if cell.remark() else ""
    return f"${number}{ends}${remark}"


def _marked(cell: Cell, digits: int, best: str, within: str) -> str:
    text = _piped(cell.plain(digits))
    if cell.value is None or not (cell.best or cell.within):
        return text
    number, space, rest = text.partition(" ")
    return (best if cell.best else within).format(number) + space + rest


def _piped(text: str) -> str:
    return text.replace("|", "\\|")
