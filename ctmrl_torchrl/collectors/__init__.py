"""Meta-test collection: adapt to tasks in a batched environment under a named protocol."""

from __future__ import annotations

from ctmrl_torchrl.collectors.meta_test import AdaptationRun, MetaTestCollector
from ctmrl_torchrl.collectors.protocols import (
    AdaptationProtocol,
    CodesProtocol,
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
)

__all__ = [
    "AdaptationProtocol",
    "AdaptationRun",
    "CodesProtocol",
    "MetaTestCollector",
    "NonPriorProtocol",
    "OfflineProtocol",
    "OnlineProtocol",
]
