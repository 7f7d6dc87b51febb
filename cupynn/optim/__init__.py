"""Optimisers, and schedules for what they are told."""

from cupynn.optim import schedules
from cupynn.optim.sgd import SGD

__all__ = ["SGD", "schedules"]
