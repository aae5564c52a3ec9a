"""Engines: they turn requests into rollouts, all behind the same few verbs."""

from grpo.engines.interface import Engine, generate
from grpo.engines.native import NativeEngine

__all__ = ["Engine", "NativeEngine", "generate"]
