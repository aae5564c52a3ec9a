"""The pair scorer in training: a reward model from pairs of a better and a worse answer.

loss = −log σ(r_chosen − r_rejected − margin): the Bradley–Terry loss as in arXiv:2203.02155, the margin as in
arXiv:2307.09288. The reward is read from the last token, so that the result is an ordinary Hugging Face sequence
classifier. Texts are written as `SequenceClassifierReward` and TRL write them: prompt and answer concatenated, or the
tokenizer's chat template. A text that is too long keeps its end. The best epoch is the one with the highest accuracy on
held-out pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo.errors import ConfigError, ModelError
from grpo.reward_models.backbone import Backbone
from grpo.reward_models.classifier import PreferenceHead, empty_classifier, save_adapter_with_head, save_classifier
from grpo.reward_models.data import ScorerRow
from grpo.reward_models.reports import Evaluation
from grpo.reward_models.settings import ScorerSettings
from grpo.tasks import enough_of

__all__ = ["PairTraining", "require_loadable_adapters"]


class PairTraining:
    """The `Training` of a pair scorer.

    Raises:
        ModelError: the architecture has no sequence classifier, or prompts are messages and there is no chat template.
    """

    def __init__(
        self, backbone: Backbone, train: Sequence[ScorerRow], held_out: Sequence[ScorerRow], settings: ScorerSettings
    ) -> None:
        self.backbone = backbone
        self.head = PreferenceHead(backbone.hidden_size).to(backbone.device)
        self._write = save_classifier if settings.merge else save_adapter_with_head
        self._classifier = empty_classifier(backbone)
        # Saved with the classifier, so that users of the classifier cut texts at the same length.
        backbone.tokenizer.model_max_length = self._max_length = backbone.max_tokens(settings.max_length)
        self.train_examples, self.eval_examples = ([self._example(row) for row in rows] for rows in (train, held_out))
        margins, eval_margins = (
            [float(row.get("margin", settings.margin)) for row in rows] for rows in (train, held_out)
        )
        self._margins = torch.tensor(margins, device=backbone.device)
        self._eval_margins = torch.tensor(eval_margins, dtype=torch.float64)

    def loss(self, scores: Tensor, batch: list[int]) -> Tensor:
        """Return the loss of training pairs."""
        chosen, rejected = scores
        return _loss(chosen - rejected - self._margins[batch])

    def evaluation(self, scores: Tensor) -> Evaluation:
        """Return the share of held-out pairs in which the chosen answer scores higher, and their loss."""
        chosen, rejected = scores
        accuracy = float((chosen > rejected).double().mean())
        return Evaluation(loss=float(_loss(chosen - rejected - self._eval_margins)), accuracy=accuracy)

    def save(self, directory: Path, evaluation: Evaluation, epoch: int) -> None:  # noqa: ARG002 - weights only
        """Write the classifier as it is now, in place of the content of `directory`.

        Raises:
            StorageError: it could not be written; the former content is still there.
        """
        self._write(directory, self._classifier, self.backbone, self.head)

    def _example(self, row: ScorerRow) -> tuple[list[int], ...]:
        return tuple(self._token_ids(row["prompt"], row[side]) for side in ("chosen", "rejected"))

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
        text = enough_of(text, tokenizer, self._max_length, end=True)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[-self._max_length :]


def require_loadable_adapters(settings: ScorerSettings) -> None:
    """Raise a ConfigError unless adapters that are saved by themselves can be put on their base again."""
    if settings.lora is None:
        raise ConfigError(
            "scorer_merge is false and scorer_lora_rank is 0, so there are no adapters to save by themselves: set "
            "scorer_lora_rank to 1 or more, or scorer_merge to true"
        )
    if settings.revision is not None:
        raise ConfigError(
            f"scorer_merge is false, and saved adapters do not record that their base is at revision "
            f"{settings.revision!r}: set scorer_merge to true, or leave out revision"
        )


def _loss(difference: Tensor) -> Tensor:
    return -F.logsigmoid(difference).mean()
