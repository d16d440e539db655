"""Write the table of results between the markers of the README, from the JSON files in results/.

python examples/results_table.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ctmrl_torchrl.evaluation import best_known

ROOT = Path(__file__).parents[1]
NAMES = {
    "point_robot": "Point-Robot",
    "point_robot_wind": "Point-Robot-Wind",
    "sparse_point_robot": "Sparse-Point-Robot",
    "half_cheetah_vel": "Half-Cheetah-Vel",
    "ant_goal": "Ant-Goal",
    "hopper_rand_params": "Hopper-Rand-Params",
    "walker_rand_params": "Walker-Rand-Params",
}
PROTOCOLS = ("offline", "online", "np", "np_refine", "codes")
HEADER = (
    "environment (tasks)", "method", "seeds", "offline", "online", "np, one episode", "np, random only", "np",
    "np_refine", "codes", "oracle", "optimum", "paper",
)  # fmt: skip


def setting(run: dict) -> tuple[str, ...]:
    """What a result and its oracle have in common."""
    return run["env"], run.get("tasks") or run["dataset"]["tasks"], run["policy_loss"], run["preset"]


def row(result: dict, oracle: float | None) -> list[str]:
    """The cells of one setting; a single seed has no interval."""
    tests, number, reference = result["returns"]["test"], len(result["seeds"]), result["reference"]

    best_name, best = best_known(reference)

    def cell(name: str) -> str:
        if name not in tests:
            return ""
        entry = tests[name]
        low, high = entry["ci95"]
        return f"{entry['mean']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if number > 1 else "")

    offline, online, *others = (cell(name) for name in PROTOCOLS)
    after = [tests["np"]["per_episode"][number] for number in (1, result["random_episodes"])]
    return [
        f"{NAMES[result['env']]} ({result['dataset']['tasks']})",
        f"`{result['method']}`"
        + ("" if result["policy_loss"] == "brac_sac" else f", `{result['policy_loss']}`"),
        str(number),
        offline,
        online,
        *(f"{value:.2f}" for value in after),
        *others,
        "" if oracle is None else f"{oracle:.2f}",
        f"{best:.2f}" if best_name == "optimum" else f"{best:.2f} (behaviour)",
        f"{reference['paper']['test']['ctmrl']['mean']:.2f}",
    ]


def main() -> None:
    """Read, lay out, replace."""
    oracles = {
        setting(run): run["returns"]["test"]
        for run in (json.loads(file.read_text()) for file in (ROOT / "results" / "oracle").glob("*.json"))
    }
    results = [json.loads(file.read_text()) for file in (ROOT / "results").glob("*.json")]
    results.sort(
        key=lambda r: (
            list(NAMES).index(r["env"]),
            r["dataset"]["tasks"] == "paper",
            r["method"],
            r["policy_loss"],
        )
    )
    rows = [row(result, oracles.get(setting(result))) for result in results]
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *rows)]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- /table -->"
    text, found = re.subn("<!-- table -->.*<!-- /table -->", lambda _: table, text, flags=re.S)
    if not found:
        raise SystemExit("README.md has no <!-- table --> ... <!-- /table --> markers to write between.")
    readme.write_text(text, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
