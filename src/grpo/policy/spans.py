"""Spans of a packed row that attend in the same way, in groups that are padded to their longest member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grpo.packing import Segment

__all__ = ["Span", "completion_spans", "of_like_shape", "prompt_spans"]

MAX_PADDING = 1.3
"""Largest number of scores of a padded group, as a multiple of the scores of its members."""

SMALL_BLOCK = 1 << 16
"""Scores per head below which the overhead of another group is greater than the padding it avoids."""


class Span(NamedTuple):
    """`length` queries from `start` on that see `prefix_length` keys from `prefix_start` on, then themselves."""

    prefix_start: int
    prefix_length: int
    start: int
    length: int

    def alone(self) -> Span:
        """Return the same queries without a prefix."""
        return Span(0, 0, self.start, self.length)


def prompt_spans(segments: Sequence[Segment]) -> list[Span]:
    """Return the prompts."""
    return [Span(0, 0, segment.start, segment.prompt_length) for segment in segments]


def completion_spans(segments: Sequence[Segment]) -> list[Span]:
    """Return the completions, each with its prompt as prefix; empty ones are left out."""
    spans = []
    for segment in segments:
        start = segment.start + segment.prompt_length
        for length in segment.completion_lengths:
            if length:
                spans.append(Span(segment.start, segment.prompt_length, start, length))
            start += length
    return spans


def of_like_shape(spans: Sequence[Span]) -> list[list[Span]]:
    """Return the spans in groups of like shape, cut wherever one more would pad too much."""
    groups: list[list[Span]] = []
    needed = longest = 0
    for span in sorted(spans, key=lambda span: (span.prefix_length, span.prefix_start, span.length, span.start)):
        scores = span.length * (span.prefix_length + span.length)
        if groups:
            # In this order the newest span has the longest prefix.
            length = max(longest, span.length)
            padded = (len(groups[-1]) + 1) * length * (span.prefix_length + length)
            if padded <= max(MAX_PADDING * (needed + scores), SMALL_BLOCK):
                groups[-1].append(span)
                needed, longest = needed + scores, length
                continue
        groups.append([span])
        needed, longest = scores, span.length
    return groups
