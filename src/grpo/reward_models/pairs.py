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

from grpo.errors import ConfigError, ModelError
from grpo.reward_models.backbone import Backbone, find_backbone
from grpo.reward_models.classifier import empty_classifier, save_adapter_with_head, save_classifier
from grpo.reward_models.data import ScorerRow, read_pair_rows, split_pairs
from grpo.reward_models.heads import PreferenceHead
from grpo.reward_models.loop import score_rows
from grpo.reward_models.metrics import Evaluation
from grpo.reward_models.output import ScorerOutput
from grpo.reward_models.report import OnEpoch, ScorerReport
from grpo.reward_models.settings import ScorerSettings, in_configuration
from grpo.reward_models.texts import pad_right
from grpo.reward_models.training import load_for_training, run_training

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
    beside: Mapping[str, str] | None = None,
) -> ScorerReport:
    """Train a reward model and return what came of it; `output_dir/best_model` is a sequence classifier with one label.

    The tokenizer and `report.json` lie with the weights (adapters merged, or with their head alone, see
    `ScorerSettings.merge`). All of it is put in place of an earlier `best_model/` at the end, at once; until then it is
    in `unfinished/`, where a training that fails leaves its best weights. A text that is too long keeps its end.

    Args:
        rows: `{"prompt", "chosen", "rejected"}`, some perhaps with `"margin"`; `read_pair_rows` reads files.
        model: the backbone: "tiny", a Hub id, or a model's or run's directory.
        margin: of rows without a margin of their own: by how much the chosen answer should be ahead.
        on_epoch: called after each epoch.
        eval_rows: rows to evaluate on, none of which is trained on; None: a part of `rows` is held out, no prompt of
            which is trained on.
        beside: texts to write beside the weights, by file name: what the model was made from.

    Raises:
        ConfigError: adapters are to be saved and there are none.
        DataError: the rows cannot be used.
        ModelError: the backbone does not load, or its architecture has no sequence classifier.
        RunError: the loss is not a number.
        StorageError: the output could not be written.
    """
    began = time.perf_counter()
    settings = settings or ScorerSettings()
    if not settings.merge:
        _require_loadable_adapters(settings)
    train = read_pair_rows(rows)
    held_out = None if eval_rows is None else read_pair_rows(eval_rows)
    train, held_out = split_pairs(train, held_out, settings.holdout, settings.seed)
    source = find_backbone(model, settings.revision)
    backbone = load_for_training(source, settings)
    output = ScorerOutput(output_dir, beside)
    classifier = empty_classifier(source.directory, backbone)
    return run_training(
        "pair",
        lambda: _PairTraining(
            backbone, classifier, train, held_out, margin=margin, settings=settings, place=output.candidate
        ),
        output=output,
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
        place: Path,
    ) -> None:
        self.backbone = backbone
        self.classifier = classifier
        self.head = PreferenceHead(backbone.hidden_size).to(backbone.device)
        self.settings = settings
        self.place = place
        # Saved with the classifier, so that whoever loads it cuts texts where the training did.
        backbone.tokenizer.model_max_length = self.max_length = backbone.readable(settings.max_length)
        self.train_ids = [self._pair_ids(row) for row in train]
        self.eval_ids = [self._pair_ids(row) for row in held_out]
        self.margins = torch.tensor([float(row.get("margin", margin)) for row in train], device=backbone.device)
        self.eval_margins = torch.tensor([float(row.get("margin", margin)) for row in held_out], dtype=torch.float64)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training pair, both sides as long as the longer one."""
        return [2 * max(map(len, pair)) for pair in self.train_ids]

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
        """Return the share of held-out pairs in which the chosen answer scores higher, and their loss.

        Raises:
            RunError: a reward is not a number.
        """
        rows = [pair[side] for side in (0, 1) for pair in self.eval_ids]
        rewards = torch.tensor(
            score_rows(
                self.backbone,
                self.head,
                rows,
                self.settings.batch_size,
                most_tokens=self.settings.tokens_per_micro_batch,
            ),
            dtype=torch.float64,
        )
        chosen, rejected = rewards.chunk(2)
        accuracy = float((chosen > rejected).double().mean())
        return Evaluation(loss=float(_loss(chosen - rejected - self.eval_margins)), accuracy=accuracy)

    def save(self, evaluation: Evaluation, epoch: int) -> None:  # noqa: ARG002 (a classifier keeps only its weights)
        """Write the classifier as it is now.

        Raises:
            StorageError: it could not be written.
        """
        if self.settings.merge:
            save_classifier(self.place, self.classifier, self.backbone, self.head)
        else:
            save_adapter_with_head(self.place, self.classifier, self.backbone, self.head)

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


def _require_loadable_adapters(settings: ScorerSettings) -> None:
    """Raise a ConfigError unless adapters that are saved by themselves can be put on their base again."""
    if settings.lora is None:
        raise ConfigError(
            f"there are no adapters to save by themselves: give a {in_configuration('lora_rank')} from 1 on, or "
            f"{in_configuration('merge')} true"
        )
    if settings.revision is not None:
        raise ConfigError(
            f"adapters by themselves do not say that their base is at revision {settings.revision!r}: give a "
            f"{in_configuration('merge')} true, or no revision"
        )


def _loss(difference: Tensor) -> Tensor:
    return -F.logsigmoid(difference).mean()
