"""Recorded updates: the operations of an update, recorded once and then repeated without Python around them."""

from ctmrl_torchrl.recorded.gradients import RecordedGradients
from ctmrl_torchrl.recorded.products import has_onednn
from ctmrl_torchrl.recorded.record import NotRecordableError

__all__ = ["NotRecordableError", "RecordedGradients", "has_onednn"]
