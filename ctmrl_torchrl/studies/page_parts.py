"""Style, script and images of the pages."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

__all__ = ["SCRIPT", "STYLE", "compact_png"]

STYLE = """
:root { --ink: #222; --muted: #666; --line: #ddd; --soft: #f5f6f8; --accent: #0072b2; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 130rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
header p { margin: .3rem 0; color: var(--muted); max-width: 48rem; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem; }
.facts span { background: var(--soft); border: 1px solid var(--line); border-radius: 1rem;
  padding: .1rem .7rem; color: var(--ink); font-size: .9rem; }
aside { border-left: 4px solid #e69f00; background: #fff8e8; padding: .6rem 1rem; margin-top: 1.2rem; }
aside h2 { margin: 0 0 .2rem; font-size: 1rem; }
aside ul, section > ul { margin: .4rem 0; padding-left: 1.2rem; }
section > ul { color: var(--muted); font-size: .88rem; max-width: 60rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .55rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
.sort thead th { background: var(--soft); position: sticky; top: 0; cursor: pointer; user-select: none; }
.sort thead th:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.sort thead th::after { content: " \\2195"; color: #aaa; }
.sort thead th[aria-sort=ascending]::after { content: " \\2191"; color: var(--accent); }
.sort thead th[aria-sort=descending]::after { content: " \\2193"; color: var(--accent); }
tbody tr:hover { background: #fafbfc; }
.sort td:first-child, .sort th:first-child { position: sticky; left: 0; background: #fff; z-index: 1; }
.sort th:first-child { background: var(--soft); z-index: 2; }
tr.aside td, tr.aside td small { color: #888; font-style: italic; }
td.n { font-variant-numeric: tabular-nums; }
td small { display: block; color: var(--muted); font-size: .78rem; line-height: 1.3; }
td u { text-underline-offset: 3px; }
.failed, tr.failed td { color: var(--bad); }
.pairs th { font-weight: 500; color: var(--muted); width: 1%; }
.pairs td { white-space: normal; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.6rem; }
img { max-width: min(100%, 68rem); height: auto; display: block; }
figcaption, aside { max-width: 68rem; }
figcaption { color: var(--muted); font-size: .88rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem;
  overflow-x: auto; font-size: .85rem; line-height: 1.45; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .4rem; }
@media (max-width: 40rem) { body { font-size: 15px; } main { padding: 1rem .8rem 3rem; }
  th, td { padding: .3rem .5rem; } .beside { grid-template-columns: 1fr; } td:not(.n) { white-space: normal; }
  figure { overflow-x: auto; } figure img { min-width: 34rem; } .beside figure img { min-width: 0; } }
@media print { .wide { overflow: visible; } details > * { display: block; } }
"""

# A click on a heading sorts by that column, numerically for numbers; cells without a value come last.
SCRIPT = """
for (const table of document.querySelectorAll("table.sort")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const sort = (index) => {
    const up = heads[index].getAttribute("aria-sort") !== "ascending";
    const value = (row) => row.cells[index].dataset.v ?? row.cells[index].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const number = x - y;
      return (up ? 1 : -1) * (Number.isNaN(number) ? x.localeCompare(y) : number);
    };
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  };
  heads.forEach((head, index) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(index));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(index); });
  });
}
"""


def compact_png(file: Path) -> bytes:
    """The image with at most 256 colors, which takes a quarter of the space of a figure by matplotlib.

    A figure has few colors and their shades along the edges of lines and letters; a page of a study has
    dozens of figures.
    """
    with Image.open(file) as image:
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    few = page.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    compact = io.BytesIO()
    few.save(compact, "PNG", optimize=True)
    return min(compact.getvalue(), file.read_bytes(), key=len)
