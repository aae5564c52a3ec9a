"""Measure the machine's limit: the best rate of a matrix product.

    python benchmarks/gemm.py [--device cpu|cuda] [--dtype float32|bfloat16] [--threads N]

Prints one JSON line with rates in GFLOP/s: `torch` is `torch.matmul` (on a CPU in float32: MKL or OpenBLAS); `onednn`,
on CPUs that support it, is the library that PyTorch includes for quantized and compiled code. Each rate is the best of
several shapes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gemm_rates"]

SHAPES = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 512, 4096), (4096, 1024, 1024)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 2048, 8192)),
}
SECONDS = 0.4
"""Seconds of measurement for each shape, after a warm-up."""


def gemm_rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Return the best rate of each library in GFLOP/s."""
    kind = device.split(":", maxsplit=1)[0]
    products: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"torch": torch.nn.functional.linear}
    if kind == "cpu" and torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        products["onednn"] = lambda x, weight: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    with torch.inference_mode():
        return {
            name: round(max(_rate(product, shape, device, dtype) for shape in SHAPES[kind]), 1)
            for name, product in products.items()
        }


def _rate(
    product: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int], device: str, dtype: torch.dtype
) -> float:
    rows, inner, columns = shape
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    best = float("inf")
    product(x, weight)
    _wait(device)
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        product(x, weight)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * rows * inner * columns / best / 1e9


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(json.dumps(gemm_rates(arguments.device, getattr(torch, arguments.dtype))))


if __name__ == "__main__":
    main()
