"""Training of a reward model from pairs of a better and a worse answer (Bradley and Terry, as in arXiv:2203.02155).

loss = −log σ(r_chosen − r_rejected − margin), the margin as in arXiv:2307.09288. The reward is read from the last
token, so that the result is an ordinary Hugging Face sequence classifier, and texts are written as
`SequenceClassifierReward` and TRL write them: prompt and answer one after the other, or the tokenizer's chat template.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.errors import ModelError
from grpo.scorer.backbone import Backbone, find_backbone, load_backbone
from grpo.scorer.classifier import empty_classifier, save_classifier
from grpo.scorer.data import ScorerRow, hold_out_pairs, read_pair_rows
from grpo.scorer.heads import PreferenceHead
from grpo.scorer.loop import score_rows
from grpo.scorer.metrics import Evaluation
from grpo.scorer.report import OnEpoch, ScorerReport
from grpo.scorer.settings import ScorerSettings
from grpo.scorer.texts import pad_right
from grpo.scorer.training import best_model_in, run_training

__all__ = ["train_pair_scorer"]


def train_pair_scorer(
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str | Path = "tiny",
    output_dir: str | Path,
    settings: ScorerSettings | None = None,
    margin: float = 0.0,
    on_epoch: OnEpoch | None = None,
    eval_rows: Sequence[Mapping[str, Any]] | None = None,
) -> ScorerReport:
    """Train a reward model and return what came of it; `output_dir/best_model` is a sequence classifier with one label.

    Writes `best_model/` (adapters merged, tokenizer included) and `report.json` into `output_dir`, in place of
    earlier ones. A text that is too long keeps its end.

    Args:
        rows: `{"prompt", "chosen", "rejected"}`, some perhaps with `"margin"`; `read_pair_rows` reads files.
        model: the backbone: "tiny", a Hub id, or a model's or run's directory.
        margin: of rows without a margin of their own: by how much the chosen answer should be ahead.
        on_epoch: called after each epoch.
        eval_rows: rows to evaluate on; None: a part of `rows` is held out, no prompt of which is trained on.

    Raises:
        DataError: the rows cannot be used.
        ModelError: the backbone does not load, or its architecture has no sequence classifier.
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    began = time.perf_counter()
    settings = settings or ScorerSettings()
    train = read_pair_rows(rows)
    if eval_rows is not None:
        held_out = read_pair_rows(eval_rows)
    else:
        train, held_out = hold_out_pairs(train, settings.holdout, settings.seed)
    best_model = best_model_in(output_dir)
    source = find_backbone(model)
    backbone = load_backbone(
        source, lora=settings.lora, dtype=settings.dtype, device=settings.device, seed=settings.seed
    )
    classifier = empty_classifier(source.directory, backbone)
    return run_training(
        "pair",
        lambda: _PairTraining(
            backbone, classifier, train, held_out, margin=margin, settings=settings, best_model=best_model
        ),
        best_model=best_model,
        settings=settings,
        on_epoch=on_epoch,
        began=began,
    )


class _PairTraining:
    """One training's pairs in tokens, and what the loop asks of them."""

    def __init__(
        self,
        backbone: Backbone,
        classifier: Any,
        train: Sequence[ScorerRow],
        held_out: Sequence[ScorerRow],
        *,
        margin: float,
        settings: ScorerSettings,
        best_model: Path,
    ) -> None:
        self.backbone = backbone
        self.classifier = classifier
        self.head = PreferenceHead(backbone.hidden_size).to(backbone.device)
        self.settings = settings
        self.best_model = best_model
        # Saved with the classifier, so that whoever loads it cuts texts where the training did.
        limits = (settings.max_length, backbone.tokenizer.model_max_length)
        backbone.tokenizer.model_max_length = self.max_length = min(limits)
        self.train_ids = [self._pair_ids(row) for row in train]
        self.eval_ids = [self._pair_ids(row) for row in held_out]
        self.margins = torch.tensor([float(row.get("margin", margin)) for row in train], device=backbone.device)
        self.eval_margins = torch.tensor([float(row.get("margin", margin)) for row in held_out], dtype=torch.float64)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer answer of each training pair, with its prompt."""
        return [max(map(len, pair)) for pair in self.train_ids]

    @property
    def num_eval(self) -> int:
        """Pairs that are held out."""
        return len(self.eval_ids)

    def loss_of(self, batch: list[int]) -> Tensor:
        """Return the loss of training pairs."""
        rows = [self.train_ids[index][side] for side in (0, 1) for index in batch]
        token_ids, lengths = pad_right(rows, self.backbone.pad_token_id, self.backbone.device)
        chosen, rejected = self.head(self.backbone.last_hidden(token_ids), lengths).chunk(2)
        return _loss(chosen - rejected - self.margins[batch])

    def evaluate(self) -> Evaluation:
        """Return the share of held-out pairs in which the chosen answer scores higher, and their loss."""
        rows = [pair[side] for side in (0, 1) for pair in self.eval_ids]
        rewards = torch.tensor(score_rows(self.backbone, self.head, rows, self.settings.batch_size)).double()
        chosen, rejected = rewards.chunk(2)
        accuracy = float((chosen > rejected).double().mean())
        return Evaluation(loss=float(_loss(chosen - rejected - self.eval_margins)), accuracy=accuracy)

    def save(self, evaluation: Evaluation, epoch: int) -> None:  # noqa: ARG002 (a classifier keeps only its weights)
        """Write the classifier as it is now."""
        save_classifier(self.best_model, self.classifier, self.backbone, self.head)

    def _pair_ids(self, row: ScorerRow) -> tuple[list[int], list[int]]:
        chosen, rejected = (self._token_ids(row["prompt"], row[side]) for side in ("chosen", "rejected"))
        return chosen, rejected

    def _token_ids(self, prompt: Any, answer: Any) -> list[int]:
        """Return the last `max_length` tokens of prompt and answer."""
        tokenizer = self.backbone.tokenizer
        if isinstance(prompt, str):
            text = prompt + answer
        elif not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {self.backbone.name} has no chat template but the prompts are messages: "
                f"give another model, or plain prompts"
            )
        else:
            messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
            text = tokenizer.apply_chat_template([*prompt, *messages], tokenize=False)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[-self.max_length :]


def _loss(difference: Tensor) -> Tensor:
    return -F.logsigmoid(difference).mean()
