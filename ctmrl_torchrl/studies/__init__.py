"""Studies: grids of runs that are planned, run locally or on clusters, aggregated and reported.

Names are imported on first use, so that a worker process only loads what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctmrl_torchrl.studies.combining import combine_reports
    from ctmrl_torchrl.studies.config import ReportConfig, StudyConfig, load_study
    from ctmrl_torchrl.studies.errors import StudyError
    from ctmrl_torchrl.studies.jobs import Job, Outcome, Runner
    from ctmrl_torchrl.studies.merging import Merged, merge_runs
    from ctmrl_torchrl.studies.page import write_run_page
    from ctmrl_torchrl.studies.report import write_report
    from ctmrl_torchrl.studies.runners import RUNNERS
    from ctmrl_torchrl.studies.study import Plan, Study

__all__ = [
    "RUNNERS",
    "Job",
    "Merged",
    "Outcome",
    "Plan",
    "ReportConfig",
    "Runner",
    "Study",
    "StudyConfig",
    "StudyError",
    "combine_reports",
    "load_study",
    "merge_runs",
    "write_report",
    "write_run_page",
]

_MODULES = {
    "combining": ("combine_reports",),
    "config": ("ReportConfig", "StudyConfig", "load_study"),
    "errors": ("StudyError",),
    "jobs": ("Job", "Outcome", "Runner"),
    "merging": ("Merged", "merge_runs"),
    "page": ("write_run_page",),
    "report": ("write_report",),
    "runners": ("RUNNERS",),
    "study": ("Plan", "Study"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
