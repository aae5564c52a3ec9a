"""New weights for a sampler, and the proof that it has them."""

from __future__ import annotations

from grpo import event_loop
from grpo.engines.protocol import Sampler
from grpo.errors import StaleWeightsError
from grpo.policy import ExportedWeights

__all__ = ["describe_difference", "differing_tensors", "sync_weights"]

_NAMED = 5


def sync_weights(sampler: Sampler, weights: ExportedWeights, version: int) -> None:
    """Give a sampler the policy's weights and check that it holds them.

    A sampler outside this process proves it by checksums where it has them. One that reads the policy's own
    parameters needs no such proof; the log-probabilities of its next completions are compared in any case
    (`update.sampler_mismatch`). A version number alone proves nothing.

    Raises:
        StaleWeightsError: the sampler reports another version, or tensors differ; the message names them.
        RunError, ModelError: as `Sampler.update_weights`.
    """
    event_loop.run(sampler.update_weights(weights, version))
    if sampler.policy_version != version:
        raise StaleWeightsError(
            f"the sampler reports weights of version {sampler.policy_version} after it was given version {version}: "
            f"correct the engine's update_weights"
        )
    if not sampler.capabilities.in_process and (names := differing_tensors(sampler, weights)):
        raise StaleWeightsError(f"after the update to version {version} {describe_difference(names)}")


def differing_tensors(sampler: Sampler, weights: ExportedWeights) -> list[str] | None:
    """Return the names of exported tensors that differ in the sampler; None: the sampler has no checksums."""
    theirs = event_loop.run(sampler.checksums())
    if theirs is None:
        return None
    return [name for name, digest in weights.checksums().items() if theirs.get(name) != digest]


def describe_difference(names: list[str] | None) -> str:
    """Return in words how the sampler's tensors differ from the policy's, by the result of `differing_tensors`."""
    if names is None:
        return "the sampler has no checksums that would name the tensor"
    if not names:
        return (
            "the sampler holds all tensors of the policy, but computes with them in another way: report it, with the "
            "model's config.json"
        )
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"the sampler holds other values of {', '.join(names[:_NAMED])}{more}"
