"""Draw the figures of README and docs from the JSON files in results/.

    python examples/draw_results.py

Adaptation curves of every setting, the behavior in the data and the sweeps over the size of the codebook
go to results/figures/, the comparison of ways to draw training contexts to docs/figures/context-shift.png.
"""

from __future__ import annotations

from pathlib import Path

from ctmrl_torchrl.studies.pictures import draw_context_shift, draw_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SHIFT = {
    "Encoder trained on whole trajectories\nof one to three behaviors (ours)": "ablations/none.json",
    "Encoder trained on single transitions\nof all behaviors (as released)": "ablations/released-draw.json",
}


def main() -> None:
    """Read, draw."""
    draw_results(RESULTS, RESULTS / "figures")
    draw_context_shift(
        {name: RESULTS / file for name, file in SHIFT.items()},
        ROOT / "docs" / "figures" / "context-shift.png",
    )


if __name__ == "__main__":
    main()
