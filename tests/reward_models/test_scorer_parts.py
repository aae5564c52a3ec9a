"""Heads, batches and metrics by themselves."""

from __future__ import annotations

import random

import pytest
import torch
from sklearn.metrics import roc_auc_score

from grpo.reward_models.classifier import PreferenceHead
from grpo.reward_models.clicks import HEAD_SIZES, ClickHead, masked_mean
from grpo.reward_models.loop import length_batches, micro_batches, pad_right, shuffled_batches
from grpo.reward_models.reports import Evaluation, draw_reliability, evaluate_probabilities


def test_the_mean_is_over_a_rows_own_tokens_whatever_the_padding_holds():
    hidden = torch.randn(3, 5, 4)
    hidden[0, 2:] = float("nan")
    mean = masked_mean(hidden, torch.tensor([2, 5, 0]))
    torch.testing.assert_close(mean, torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0), torch.zeros(4)]))


def test_the_click_head_is_mean_then_1024_then_512_then_one():
    head = ClickHead(8, HEAD_SIZES, dropout=0.1)
    linear = [(layer.in_features, layer.out_features) for layer in head.layers if isinstance(layer, torch.nn.Linear)]
    assert linear == [(8, 1024), (1024, 512), (512, 1)]
    assert [type(layer).__name__ for layer in head.layers] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert head(torch.randn(2, 3, 8), torch.tensor([3, 1])).shape == (2,)


def test_the_preference_head_reads_the_last_token():
    head = PreferenceHead(4)
    hidden = torch.randn(2, 3, 4)
    found = head(hidden, torch.tensor([3, 1]))
    torch.testing.assert_close(found, torch.stack([hidden[0, 2], hidden[1, 0]]) @ head.score.weight[0])


def test_batches_hold_every_row_once_and_rows_of_about_one_length():
    lengths = [random.Random(0).randint(3, 30) for _ in range(500)]
    for batches in (length_batches(lengths, 16), shuffled_batches(lengths, 16, random.Random(1))):
        assert sorted(index for batch in batches for index in batch) == list(range(500))
        assert len(batches) == 32
        padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
        assert padding < 1.15
    first = shuffled_batches(lengths, 16, random.Random(1))
    assert first == shuffled_batches(lengths, 16, random.Random(1))
    assert first != shuffled_batches(lengths, 16, random.Random(2))


def test_rows_are_padded_at_the_end():
    token_ids, lengths = pad_right([[5, 6, 7], [8], []], 1, torch.device("cpu"))
    assert token_ids.tolist() == [[5, 6, 7], [8, 1, 1], [1, 1, 1]]
    assert lengths.tolist() == [3, 1, 0]


def test_metrics_are_what_their_definitions_say():
    labels, probabilities = [0, 0, 1, 1, 1], [0.1, 0.62, 0.68, 0.35, 0.9]
    found = evaluate_probabilities(labels, probabilities, loss=0.5)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.auc == pytest.approx(roc_auc_score(labels, probabilities)) == pytest.approx(5 / 6)
    assert found.brier == pytest.approx(sum((a - b) ** 2 for a, b in zip(labels, probabilities, strict=True)) / 5)
    assert [(each.low, each.count, each.observed) for each in found.bins] == [
        (0.1, 1, 0.0),
        (0.3, 1, 1.0),
        (0.6, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert found.bins[2].predicted == pytest.approx(0.65)


def test_a_probability_of_one_belongs_to_the_last_bin():
    assert evaluate_probabilities([0, 1], [0.0, 1.0], loss=0.0).bins[-1].high == 1.0


def test_the_better_evaluation_has_the_higher_auc_and_at_a_tie_the_lower_loss():
    assert Evaluation(loss=1.0, accuracy=0.1, auc=0.8).quality > Evaluation(loss=0.5, accuracy=0.9, auc=0.7).quality
    assert Evaluation(loss=0.5, accuracy=0.9).quality > Evaluation(loss=0.6, accuracy=0.9).quality


def test_the_reliability_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    bins = evaluate_probabilities([0, 1, 1], [0.2, 0.4, 0.8], loss=0.0).bins
    for name in ("reliability.svg", "reliability.png"):
        assert draw_reliability(bins, tmp_path / name).stat().st_size > 1000


def test_a_batch_is_cut_where_its_padded_tokens_would_be_too_many():
    lengths = [3, 4, 4, 10, 50, 2]
    assert micro_batches([0, 1, 2, 3, 4, 5], lengths, 12) == [[0, 1, 2], [3], [4], [5]]
    assert micro_batches([0, 1, 2, 3, 4, 5], lengths, 300) == [[0, 1, 2, 3, 4, 5]]
    assert micro_batches([], lengths, 12) == []
