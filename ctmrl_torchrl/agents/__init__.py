"""Saved agents with a card, which can be loaded without data or training code."""

from __future__ import annotations

from ctmrl_torchrl.agents.agent import Adaptation, Agent
from ctmrl_torchrl.agents.card import AgentCard, AgentError
from ctmrl_torchrl.agents.shipped import shipped_agents

__all__ = ["Adaptation", "Agent", "AgentCard", "AgentError", "shipped_agents"]
