"""A Hugging Face sequence classifier as reward."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.errors import ConfigError, ModelError
from grpo.rewards.models.backbones import Backbones, find_device
from grpo.rewards.texts import Completion, completion_texts
from grpo.tasks import enough_of

__all__ = ["SequenceClassifierReward"]

_logger = logging.getLogger(__name__)
# A tokenizer without a limit has 10**30.
_NO_LIMIT = 10**9


class SequenceClassifierReward:
    """Scores prompt + completion with a sequence classifier; called like any reward function.

    The reward is the logit of a model with one label. Of a model with more labels it is the probability
    of `label` (softmax over the labels; sigmoid where `problem_type` is multi-label). Chat prompts are
    written with the chat template of the classifier's own tokenizer, as TRL does.

    Attributes:
        truncated: texts so far that were longer than the classifier reads and lost their beginning.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        label: int | str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        backbones: Backbones | None = None,
    ) -> None:
        """Take or load the classifier and put it in evaluation mode.

        Args:
            model: a Hub id or directory (of a model, or of an adapter with its head), or a model object
                (`AutoModelForSequenceClassification`).
            tokenizer: name or object; by default the one saved with the model.
            label: index or name of the rewarded label; needed when the model has more than one.
            batch_size: texts in a forward pass.
            max_length: tokens of a text, at most the limit of the model; longer texts keep their end.
            device: by default a model object stays where it is; a loaded one goes to the GPU if there is one.
            revision: of a Hub id: branch, tag or commit.
            backbones: source of a model given by name; None: it is loaded for this reward alone.

        Raises:
            ConfigError: the model is no trained sequence classifier, `label` is missing or unknown, a number is
                impossible, or there is no such device.
            ModelError: the model or its tokenizer cannot be loaded.
        """
        for option, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{option} is {value!r} for a reward model: use a whole number from 1 on")
        name = model if isinstance(model, str) else str(getattr(model.config, "_name_or_path", "") or "")
        self.__name__ = name.rstrip("/").rsplit("/", 1)[-1] or type(model).__name__
        if isinstance(model, str):
            self._model: Any = (backbones or Backbones()).classifier(model, revision=revision, device=device)
        else:
            self._model = _checked(model, device)
        self._model.eval()
        # A revision is valid in the model's own repository only.
        of_tokenizer = revision if tokenizer in (None, name) else None
        self._tokenizer = _tokenizer(name if tokenizer is None else tokenizer, self.__name__, of_tokenizer)
        self._label = _label_index(self._model.config, label, self.__name__)
        self._limit = _limit(self._model.config, self._tokenizer, max_length)
        self._batch_size = batch_size
        self.truncated = 0
        self._pad_id = _padding(self._model.config, self._tokenizer, self.__name__)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
        """Return one reward a completion."""
        import torch

        from grpo.reward_models.loop import length_batches

        rows = [self._token_ids(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        self._count_truncated(sum(len(row) > self._limit for row in rows))
        rows = [self._cut(row) for row in rows]
        rewards = [0.0] * len(rows)
        with torch.inference_mode():
            for chosen in length_batches([len(row) for row in rows], self._batch_size):
                for index, reward in zip(chosen, self._forward([rows[index] for index in chosen]), strict=True):
                    rewards[index] = reward
        return rewards

    def _token_ids(self, prompt: Any, completion: Completion) -> list[int]:
        if isinstance(prompt, str):
            text = prompt + completion_texts([completion])[0]
            # Encoders read the class from a token that only the tokenizer adds. In a decoder, an end token
            # or a second start token would shift the position that is read.
            special = getattr(self._tokenizer, "cls_token_id", None) is not None
        else:
            if not self._tokenizer.chat_template:
                raise ModelError(
                    f"the tokenizer of reward model {self.__name__!r} has no chat template but the prompts are "
                    f"messages: give one that has, or plain prompts"
                )
            text = self._tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
            special = False
        text = enough_of(text, self._tokenizer, self._limit, end=True)
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _cut(self, row: list[int]) -> list[int]:
        if len(row) <= self._limit:
            return row
        start = row[:1] if row[0] == getattr(self._tokenizer, "cls_token_id", None) else []
        return start + row[len(row) - self._limit + len(start) :]

    def _count_truncated(self, count: int) -> None:
        if count and not self.truncated:
            _logger.warning(
                "%d texts are longer than the %d tokens that reward model %r reads: they lose their beginning "
                "(shown once; the reward's attribute `truncated` counts them all)",
                count,
                self._limit,
                self.__name__,
            )
        self.truncated += count

    def _forward(self, rows: list[list[int]]) -> list[float]:
        import torch

        from grpo.reward_models.loop import pad_right

        token_ids, lengths = pad_right(rows, self._pad_id, self._model.device)
        mask = (torch.arange(token_ids.shape[1], device=lengths.device) < lengths[:, None]).long()
        logits = self._model(input_ids=token_ids, attention_mask=mask).logits.float()
        if logits.dim() != 2:
            raise ModelError(
                f"reward model {self.__name__!r} gave logits {list(logits.shape)}: one row a text is needed"
            )
        if self._label is None:
            rewards = logits[:, 0]
        elif self._model.config.problem_type == "multi_label_classification":
            rewards = logits[:, self._label].sigmoid()
        else:
            rewards = logits.softmax(-1)[:, self._label]
        return [float(reward) for reward in rewards.tolist()]


def _checked(model: Any, device: str | None) -> Any:
    """Return a model object that is a sequence classifier, moved if a device is given."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    output = getattr(inner, "get_output_embeddings", lambda: None)()
    if output is not None or getattr(model.config, "num_labels", None) is None:
        raise ConfigError(
            f"{type(inner).__name__} is not a reward model: give an AutoModelForSequenceClassification with a "
            f"trained head (num_labels=1), its name, or a reward function"
        )
    return model if device is None else model.to(find_device(device))


def _tokenizer(tokenizer: Any, name: str, revision: str | None) -> Any:
    if tokenizer and not isinstance(tokenizer, str):
        return tokenizer
    if not tokenizer:
        raise ConfigError(f"reward model {name!r} was not loaded from a name: give its tokenizer as well, tokenizer=…")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(tokenizer, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot load the tokenizer of reward model {name!r} from {tokenizer!r}: {reason}") from error


def _label_index(config: Any, label: int | str | None, name: str) -> int | None:
    """Return the rewarded label's index, and None for a model whose one logit is the reward."""
    labels: Mapping[int, str] = config.id2label
    if config.num_labels == 1 and label is None:
        return None
    by_name = {text: index for index, text in labels.items()}
    index = by_name.get(label, -1) if isinstance(label, str) else label
    if config.num_labels == 1 or index not in labels:
        allowed = f"one of {list(labels.values())}" if config.num_labels > 1 else "none, as it has one logit"
        raise ConfigError(f"reward model {name!r} has {config.num_labels} labels, got label={label!r}: use {allowed}")
    return index


def _limit(config: Any, tokenizer: Any, max_length: int | None) -> int:
    known = (max_length, getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min((length for length in known if length is not None), default=_NO_LIMIT)


def _padding(config: Any, tokenizer: Any, name: str) -> int:
    """Return the padding id of the model: decoders read the last token that differs from it.

    A model without one is given the tokenizer's, or that of its end token.
    """
    text_config = config.get_text_config()
    if text_config.pad_token_id is None:
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        text_config.pad_token_id = next((token_id for token_id in known if token_id is not None), None)
    if text_config.pad_token_id is None:
        raise ModelError(
            f"neither reward model {name!r} nor its tokenizer has a padding or an end token: set pad_token"
        )
    return int(text_config.pad_token_id)
