"""Meta-test collection: adapt to tasks in a batched environment under a named protocol.

Kinds of TorchRL collectors come from :mod:`ctmrl_torchrl.collector_kinds`.

Modules, each importing only from earlier ones: :mod:`rows` (environments and policies for TorchRL's
collectors), :mod:`episodes` (one episode of all rows), :mod:`encoding` (contexts
of episodes), :mod:`run` (the state of a meta-test), :mod:`protocol` (the base class and the registry),
:mod:`protocols`, :mod:`selection`, :mod:`interleaved`, :mod:`in_distribution` and :mod:`anole` (the
protocols), :mod:`adaptation` (the meta-test).
"""

from __future__ import annotations

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig, CollectorKind, CollectorParts
from ctmrl_torchrl.collectors.adaptation import MetaTestCollector
from ctmrl_torchrl.collectors.anole import FragmentSource, PreferenceSearchProtocol
from ctmrl_torchrl.collectors.episodes import EpisodeCollector
from ctmrl_torchrl.collectors.in_distribution import InDistributionProtocol
from ctmrl_torchrl.collectors.interleaved import InterleavedProtocol
from ctmrl_torchrl.collectors.protocol import (
    PROTOCOLS,
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
)
from ctmrl_torchrl.collectors.protocols import (
    NoContextProtocol,
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
    ToldProtocol,
)
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.collectors.selection import CandidatesProtocol, RefineProtocol

__all__ = [
    "COLLECTORS",
    "PROTOCOLS",
    "AdaptationProtocol",
    "AdaptationRun",
    "CandidatesProtocol",
    "CollectorConfig",
    "CollectorKind",
    "CollectorParts",
    "EpisodeCollector",
    "FragmentSource",
    "InDistributionProtocol",
    "InterleavedProtocol",
    "MetaTestCollector",
    "NoContextProtocol",
    "NonPriorProtocol",
    "OfflineProtocol",
    "OnlineProtocol",
    "PreferenceSearchProtocol",
    "ProtocolSettings",
    "RefineProtocol",
    "ToldProtocol",
    "register_protocol",
]
