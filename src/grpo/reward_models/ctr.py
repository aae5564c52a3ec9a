"""Training of the CTR scorer: the probability that a headline is clicked, from texts with labels 0 and 1.

A backbone (with adapters or all of it), the masked mean of its last hidden layer, an MLP, a logit. Rare clicks
are weighted up so that both classes pull alike (`pos_weight` of BCE-with-logits), which shifts every logit by
the weight's logarithm; the shift is subtracted again from what is predicted, so that the probabilities are those
of the data. The best epoch by AUC on held-out texts is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.reward_models.backbone import Backbone, find_backbone
from grpo.reward_models.checkpoint import AdapterShape, Description, save_scorer
from grpo.reward_models.data import ScorerRow, read_click_rows, split_clicks
from grpo.reward_models.heads import CLICK_HEAD_SIZES, ClickHead
from grpo.reward_models.loop import score_rows
from grpo.reward_models.metrics import Evaluation, evaluate_probabilities
from grpo.reward_models.output import ScorerOutput
from grpo.reward_models.report import OnEpoch, ScorerReport
from grpo.reward_models.settings import ScorerSettings
from grpo.reward_models.texts import pad_right
from grpo.reward_models.training import load_for_training, run_training

__all__ = ["click_token_ids", "scorer_parameters", "train_ctr_scorer"]


def train_ctr_scorer(
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str | Path = "tiny",
    output_dir: str | Path,
    settings: ScorerSettings | None = None,
    on_epoch: OnEpoch | None = None,
    eval_rows: Sequence[Mapping[str, Any]] | None = None,
    beside: Mapping[str, str] | None = None,
    attainable: Callable[[Sequence[str], Sequence[int]], float] | None = None,
) -> ScorerReport:
    """Train a scorer and return what came of it; `CTRScorer` loads `output_dir/best_model`.

    With the weights lie `report.json` and, with matplotlib, `reliability.svg`. All of it is put in place of an earlier
    `best_model/` at the end, at once; until then it is in `unfinished/`, where a training that fails leaves its best
    weights.

    Args:
        rows: `{"text", "label"}`; `read_click_rows` reads files.
        model: the backbone: "tiny", a Hub id, or a model's or run's directory.
        on_epoch: called after each epoch.
        eval_rows: rows to evaluate on; None: a part of `rows` is held out. No text of theirs is trained on.
        beside: texts to write beside the weights, by file name: what the scorer was made from.
        attainable: from held-out texts and labels to the best AUC that there is, for the report.

    Raises:
        DataError: the rows cannot be used.
        ModelError: the backbone does not load.
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    began = time.perf_counter()
    settings = settings or ScorerSettings()
    train = read_click_rows(rows)
    held_out = None if eval_rows is None else read_click_rows(eval_rows)
    train, held_out = split_clicks(train, held_out, settings.holdout, settings.seed)
    limit = None
    if attainable is not None:
        limit = attainable([row["text"] for row in held_out], [row["label"] for row in held_out])
    backbone = load_for_training(find_backbone(model, settings.revision), settings)
    output = ScorerOutput(output_dir, beside)
    return run_training(
        "ctr",
        lambda: _ClickTraining(backbone, train, held_out, settings=settings, place=output.candidate),
        output=output,
        settings=settings,
        on_epoch=on_epoch,
        began=began,
        attainable_auc=limit,
    )


def click_token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the first `max_length` tokens of each text, without blanks at its ends and with the special tokens that
    the tokenizer puts around every text."""
    if not texts:
        return []
    rows = tokenizer([text.strip() for text in texts], truncation=True, max_length=max_length)["input_ids"]
    return [list(row) for row in rows]


class _ClickTraining:
    """One training's rows in tokens, and what the loop asks of them."""

    def __init__(
        self,
        backbone: Backbone,
        train: Sequence[ScorerRow],
        held_out: Sequence[ScorerRow],
        *,
        settings: ScorerSettings,
        place: Path,
    ) -> None:
        self.backbone = backbone
        self.head = ClickHead(backbone.hidden_size, dropout=settings.head_dropout).to(backbone.device)
        self.settings = settings
        self.place = place
        self.max_length = backbone.readable(settings.max_length)
        self.train_ids = self._token_ids(train)
        self.eval_ids = self._token_ids(held_out)
        self.labels = torch.tensor([float(row["label"]) for row in train], device=backbone.device)
        self.eval_labels = [int(row["label"]) for row in held_out]
        clicked = float(self.labels.sum())
        self.click_weight = torch.tensor((len(train) - clicked) / clicked, device=backbone.device)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training row."""
        return [len(row) for row in self.train_ids]

    @property
    def num_eval(self) -> int:
        """Rows that are held out."""
        return len(self.eval_ids)

    @property
    def logit_shift(self) -> float:
        """What takes the class weights out of a logit."""
        return -math.log(float(self.click_weight))

    def loss_of(self, batch: list[int]) -> Tensor:
        """Return the class-weighted loss of training rows."""
        rows = [self.train_ids[index] for index in batch]
        token_ids, lengths = pad_right(rows, self.backbone.pad_token_id, self.backbone.device)
        logits = self.head(self.backbone.last_hidden(token_ids), lengths)
        return F.binary_cross_entropy_with_logits(logits, self.labels[batch], pos_weight=self.click_weight)

    def evaluate(self) -> Evaluation:
        """Return how good the probabilities of the held-out rows are.

        Raises:
            RunError: a score is not a number.
        """
        logits = torch.tensor(
            score_rows(
                self.backbone,
                self.head,
                self.eval_ids,
                self.settings.batch_size,
                most_tokens=self.settings.tokens_per_micro_batch,
            )
        )
        logits = logits.double() + self.logit_shift
        labels = torch.tensor(self.eval_labels, dtype=torch.float64)
        loss = float(F.binary_cross_entropy_with_logits(logits, labels))
        return evaluate_probabilities(self.eval_labels, logits.sigmoid().tolist(), loss=loss)

    def save(self, evaluation: Evaluation, epoch: int) -> None:
        """Write the scorer as it is now.

        Raises:
            StorageError: it could not be written.
        """
        lora = self.settings.lora
        shape = None
        if lora is not None:
            shape = AdapterShape(lora.rank, lora.alpha, lora.target_modules)
        description = Description(
            kind="ctr",
            backbone=self.backbone.name,
            sizes=self.backbone.sizes,
            lora=shape,
            head_sizes=CLICK_HEAD_SIZES,
            max_length=self.max_length,
            logit_shift=self.logit_shift,
            metrics={"epoch": epoch, **asdict(evaluation)},
            revision=self.backbone.revision,
        )
        save_scorer(self.place, description, scorer_parameters(self.backbone, self.head), self.backbone.tokenizer)

    def _token_ids(self, rows: Sequence[ScorerRow]) -> list[list[int]]:
        return click_token_ids(self.backbone.tokenizer, [row["text"] for row in rows], self.max_length)


def scorer_parameters(backbone: Backbone, head: ClickHead) -> dict[str, torch.nn.Parameter]:
    """Return what a scorer's checkpoint holds: the trained part of the backbone, and the head."""
    return {
        **{f"backbone.{name}": value for name, value in backbone.trained().items()},
        **{f"head.{name}": value for name, value in head.named_parameters()},
    }
