"""Meta-test collection: adapt to tasks in a batched environment under a named protocol."""

from __future__ import annotations

from ctmrl_torchrl.collectors.meta_test import AdaptationProtocol, AdaptationRun, MetaTestCollector
from ctmrl_torchrl.collectors.protocols import (
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
)
from ctmrl_torchrl.collectors.selection import CodesProtocol, RefineProtocol

__all__ = [
    "AdaptationProtocol",
    "AdaptationRun",
    "CodesProtocol",
    "MetaTestCollector",
    "NonPriorProtocol",
    "OfflineProtocol",
    "OnlineProtocol",
    "RefineProtocol",
]
