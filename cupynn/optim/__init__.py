"""Optimisers, schedules for what they are told, groups of parameters, gradient clipping, the loss scale."""

from cupynn.optim import schedules
from cupynn.optim.clip import clip_grad_norm
from cupynn.optim.groups import Group, plan
from cupynn.optim.loss_scale import LossScale
from cupynn.optim.sgd import SGD

__all__ = ["SGD", "Group", "LossScale", "clip_grad_norm", "plan", "schedules"]
