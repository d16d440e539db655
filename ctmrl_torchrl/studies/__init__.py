"""Grids of runs: planned, carried out anywhere, aggregated, and reported as tables, figures and a page."""

from ctmrl_torchrl.studies.config import ReportConfig, StudyConfig, load_study
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.jobs import Job, Outcome, Runner
from ctmrl_torchrl.studies.page import write_run_page
from ctmrl_torchrl.studies.runners import RUNNERS
from ctmrl_torchrl.studies.study import Plan, Study

__all__ = [
    "RUNNERS",
    "Job",
    "Outcome",
    "Plan",
    "ReportConfig",
    "Runner",
    "Study",
    "StudyConfig",
    "StudyError",
    "load_study",
    "write_run_page",
]
