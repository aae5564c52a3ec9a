"""What tests of rewards compare: results but for their times, and where weights lie."""

from __future__ import annotations

from typing import Any


def without_times(result: Any) -> tuple[Any, dict[str, float]]:
    return result.groups, {name: value for name, value in result.metrics.items() if not name.endswith("/seconds")}


def memory(model: Any) -> set[int]:
    """Return where the weights of a model's decoder layers lie, adapters aside."""
    weights = {name: value for name, value in model.named_parameters() if "mlp" in name and "lora" not in name}
    assert weights
    return {value.data_ptr() for value in weights.values()}
