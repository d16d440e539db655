"""Run a table of the paper, or a custom study, and write a page that can be shared.

python examples/reproduce.py quick                                      # minutes: small agents, two methods
python examples/reproduce.py table1 envs=[point_robot] seeds=[0,1,2]    # part of Table 1
python examples/reproduce.py table2 runner=ray runner.address=auto      # on a Ray cluster
python examples/reproduce.py my_study.yaml                              # in the format of configs/study

The program can be stopped and restarted at any time: finished runs are not repeated, interrupted runs resume.
"""

from __future__ import annotations

import sys

from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.stopping import Stopped, stop_signals
from ctmrl_torchrl.studies import Study, load_study


def main() -> None:
    """Plan and run the study, and report on it."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    name, *changes = sys.argv[1:]
    with told_plainly(), stop_signals():
        study = Study(load_study(name, changes), root="studies")
        print(study.plan())
        status = study.run()
        print(", ".join(f"{number} {state}" for state, number in status.items()))
        print(f"the page is {study.report()}")


if __name__ == "__main__":
    try:
        main()
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
