"""The native engine: samples with the policy's own Hugging Face module, prompts shared, batch always full."""

from grpo.engines.native.engine import NativeEngine

__all__ = ["NativeEngine"]
