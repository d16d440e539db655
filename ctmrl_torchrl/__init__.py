"""Offline meta-reinforcement learning on TorchRL with cross-task context representations."""

__version__ = "0.1.0"
