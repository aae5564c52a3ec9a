"""Options of a reward model's own training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from grpo.config.fields import BelowOne, Count, Interval, NotNegative, Positive, Section, option

__all__ = ["ScorerSection"]


def _share_or_count(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("Input should be a share below 1, or a whole number of rows")
    return value


class ScorerSection(Section):
    """The reward model that `grpo reward train` trains; `grpo train` uses only `scorer_dir` of this section."""

    scorer_kind: Literal["ctr", "pair"] = Field(
        "ctr", description="ctr: texts with clicks; pair: a better and a worse answer to a prompt"
    )
    scorer_model: str | None = Field(
        None, min_length=1, description="its backbone: Hub id, directory or `tiny`; null: the policy's model"
    )
    scorer_train_file: str | None = Field(
        None, description="JSONL or CSV: text, label; or prompt, chosen, rejected; null: generated rows"
    )
    scorer_eval_file: str | None = Field(None, description="held-out rows; null: some of the training rows")
    scorer_rows: Count | None = option(
        None, "number of rows to generate; null: 20000 clicks or 500 pairs", needs={"scorer_train_file": (None,)}
    )
    scorer_dir: str = Field(
        "runs/scorer", min_length=1, description="directory that gets best_model with weights and report"
    )
    scorer_dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "auto", description="arithmetic of its forward; auto: bfloat16 where the device has it; weights stay float32"
    )
    scorer_epochs: Count = Field(4, description="passes over the rows at most")
    scorer_batch_size: Count = Field(32, description="rows (texts or pairs) in an optimizer step")
    scorer_learning_rate: Annotated[Positive, Field(lt=1)] = Field(
        5e-4, description="peak of AdamW's rate, which then falls to 0; billions of parameters need a tenth of it"
    )
    scorer_patience: Interval = Field(2, description="evaluations without gain before it stops; 0: never")
    scorer_lora_rank: Interval = Field(16, description="rank of LoRA adapters; 0: train all weights")
    scorer_lora_alpha: Positive | None = Field(None, description="scale of LoRA (alpha / rank); null: the rank")
    scorer_head_dropout: BelowOne = option(
        0.1, "dropout in the head of a click scorer, in training", needs={"scorer_kind": ("ctr",)}
    )
    scorer_merge: bool = option(
        True,
        "pair: save a whole model; false: adapters and head, which share the policy's base",
        needs={"scorer_kind": ("pair",)},
    )
    scorer_tokens_per_micro_batch: Count = Field(
        8192, description="tokens, padding included, in one forward and backward pass at most"
    )
    scorer_max_length: Count = Field(512, description="tokens of a text that are used, at most")
    scorer_holdout: Annotated[Positive, AfterValidator(_share_or_count)] = Field(
        0.2, description="share, or from 1 number, of rows held out for evaluation"
    )
    scorer_margin: NotNegative = option(
        0.0, "pair: lead that the better answer should have over the worse", needs={"scorer_kind": ("pair",)}
    )
