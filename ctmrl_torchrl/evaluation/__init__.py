"""Statistics, summaries, comparison tables with the paper, and figures (in ``evaluation.figures``)."""

from ctmrl_torchrl.evaluation.context_noise import context_noise_ratio
from ctmrl_torchrl.evaluation.paper import PaperResult, load_paper_table, paper_reference, paper_result
from ctmrl_torchrl.evaluation.probe import parameters_behind_returns, probe_parameters
from ctmrl_torchrl.evaluation.seeds import aggregate_seeds
from ctmrl_torchrl.evaluation.statistics import (
    Estimate,
    bootstrap_interval,
    interquartile_mean,
    mean_over_seeds,
    normalised_scores,
    performance_profile,
    probability_of_improvement,
)
from ctmrl_torchrl.evaluation.summary import (
    REFERENCES,
    best_known,
    build_summary,
    load_summary,
    package_versions,
    write_summary,
)
from ctmrl_torchrl.evaluation.summary_contract import SummaryError, summary_schema, validate_summary
from ctmrl_torchrl.evaluation.tables import format_summary_table

__all__ = [
    "REFERENCES",
    "Estimate",
    "PaperResult",
    "SummaryError",
    "aggregate_seeds",
    "bootstrap_interval",
    "best_known",
    "build_summary",
    "context_noise_ratio",
    "format_summary_table",
    "interquartile_mean",
    "load_paper_table",
    "load_summary",
    "mean_over_seeds",
    "normalised_scores",
    "package_versions",
    "paper_reference",
    "paper_result",
    "performance_profile",
    "probability_of_improvement",
    "parameters_behind_returns",
    "probe_parameters",
    "summary_schema",
    "validate_summary",
    "write_summary",
]
