"""Runners of studies: ``local``, ``ray``, ``slurm``, and user-registered ones."""

from ctmrl_torchrl.studies.runners.base import RUNNERS, make_runner
from ctmrl_torchrl.studies.runners.cluster import RayRunner
from ctmrl_torchrl.studies.runners.local import LocalRunner
from ctmrl_torchrl.studies.runners.slurm import SlurmRunner

__all__ = ["RUNNERS", "LocalRunner", "RayRunner", "SlurmRunner", "make_runner"]
