"""What can go wrong with a study, said to people."""

from __future__ import annotations

__all__ = ["StudyError"]


class StudyError(ValueError):
    """A study, or a set of results, cannot be used as it is; the message says what to change."""
