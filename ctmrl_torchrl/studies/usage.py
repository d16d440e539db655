"""The help of ``ctmrl study``, which is printed without importing what runs studies."""

from __future__ import annotations

from collections.abc import Sequence

HELP = """ctmrl study ACTION NAME [CHANGES]

Actions:
  plan    show the remaining runs and the estimated core hours
  run     run everything that is not done yet, then write the report; can be stopped and called again
  status  show how many runs are done, running, interrupted, waiting and failed
  report  write tables, figures and the page from the finished runs
  list    list the studies
  merge   copy the finished runs of another folder of studies: ctmrl study merge FOLDER root=studies
          (begun=replace copies those as well that are begun here)
  combine one report from several: ctmrl study combine REPORT REPORT name=NAME
          (methods=[ctmrl,csro] selects levels of the compared factor)

NAME is a study of configs/study, or a YAML file.
CHANGES: envs=[point_robot] seeds=[0,1,2] select levels; runner=ray and runner.workers=4 set the runner;
  +schedule.updates=2000 is an override for every run; root=studies is the folder of all studies;
  retry_failed=true retries failed runs; progress=false hides the progress."""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments of ``ctmrl study`` ask for its help.

    Examples:
        >>> asks_for_help(["run", "table1", "--help"]), asks_for_help(["run", "table1"])
        (True, False)
    """
    return not arguments or arguments[0] == "help" or not {"-h", "--help"}.isdisjoint(arguments)
