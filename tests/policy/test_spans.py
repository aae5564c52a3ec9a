"""Stretches of a packed row, and how they are grouped so that padding stays small."""

from __future__ import annotations

import itertools
import random

from grpo.packing import Segment
from grpo.policy.spans import MAX_PADDING, SMALL_BLOCK, Span, completion_spans, of_like_shape, prompt_spans

SEGMENTS = (Segment(0, 3, (2, 0, 4)), Segment(9, 5, (1,)))


def test_prompts_and_completions_lie_where_their_segments_say() -> None:
    assert prompt_spans(SEGMENTS) == [Span(0, 0, 0, 3), Span(0, 0, 9, 5)]
    assert completion_spans(SEGMENTS) == [Span(0, 3, 3, 2), Span(0, 3, 5, 4), Span(9, 5, 14, 1)]
    assert Span(9, 5, 14, 1).alone() == Span(0, 0, 14, 1)


def scores(group: list[Span]) -> tuple[int, int]:
    """Return the scores a head that a group's members need, and those that it has when all are padded."""
    needed = sum(span.length * (span.prefix_length + span.length) for span in group)
    longest, prefix = max(span.length for span in group), max(span.prefix_length for span in group)
    return needed, len(group) * longest * (prefix + longest)


def random_spans(count: int, seed: int) -> list[Span]:
    draw = random.Random(seed)
    return [Span(place, draw.choice((0, 200, 900)), 1000 + place, draw.randint(1, 300)) for place in range(count)]


def test_no_group_is_padded_by_more_than_is_allowed_and_none_is_lost() -> None:
    for seed in range(20):
        spans = random_spans(40, seed)
        groups = of_like_shape(spans)
        assert sorted(span for group in groups for span in group) == sorted(spans)
        for group in groups:
            needed, padded = scores(group)
            assert padded <= max(MAX_PADDING * needed, SMALL_BLOCK)


def test_groups_are_cut_only_where_one_more_span_would_pad_too_much() -> None:
    for seed in range(20):
        groups = of_like_shape(random_spans(40, seed))
        for group, following in itertools.pairwise(groups):
            needed, padded = scores([*group, following[0]])
            assert padded > max(MAX_PADDING * needed, SMALL_BLOCK)


def test_equal_spans_share_a_group_whatever_their_number() -> None:
    spans = [Span(0, 512, 600 + 300 * place, 300) for place in range(9)]
    assert of_like_shape(spans) == [spans]
    assert of_like_shape([]) == []


def test_short_spans_share_a_group_though_much_of_it_is_padding() -> None:
    spans = [Span(0, 10, 100, 1), Span(0, 10, 101, 100)]
    needed, padded = scores(spans)
    assert MAX_PADDING * needed < padded <= SMALL_BLOCK
    assert of_like_shape(spans) == [spans]
