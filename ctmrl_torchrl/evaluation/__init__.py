"""Statistics, summaries, tables against the paper and (in ``evaluation.figures``) pictures."""

from ctmrl_torchrl.evaluation.context_noise import context_noise_ratio
from ctmrl_torchrl.evaluation.paper import PaperResult, load_paper_table, paper_reference, paper_result
from ctmrl_torchrl.evaluation.statistics import aggregate_seeds, bootstrap_interval
from ctmrl_torchrl.evaluation.summary import (
    best_known,
    build_summary,
    load_summary,
    package_versions,
    write_summary,
)
from ctmrl_torchrl.evaluation.summary_contract import SummaryError, validate_summary
from ctmrl_torchrl.evaluation.tables import format_summary_table

__all__ = [
    "PaperResult",
    "SummaryError",
    "aggregate_seeds",
    "bootstrap_interval",
    "best_known",
    "build_summary",
    "context_noise_ratio",
    "format_summary_table",
    "load_paper_table",
    "load_summary",
    "package_versions",
    "paper_reference",
    "paper_result",
    "validate_summary",
    "write_summary",
]
