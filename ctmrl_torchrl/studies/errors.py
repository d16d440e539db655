"""The error of studies."""

from __future__ import annotations

__all__ = ["StudyError"]


class StudyError(ValueError):
    """A study or a set of results cannot be used; the message contains the required change."""
