"""What may be set about a reward model's own training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from grpo.config.fields import BelowOne, Count, Interval, NotNegative, Positive, Section, option

__all__ = ["ScorerSection"]


class ScorerSection(Section):
    """The reward model that `grpo reward train` trains; `grpo train` takes `scorer_dir` from here, and no more."""

    scorer_kind: Literal["ctr", "pair"] = Field(
        "ctr", description="ctr: texts with clicks; pair: a better and a worse answer to a prompt"
    )
    scorer_model: str | None = Field(
        None, min_length=1, description="what it reads with: Hub id, directory or `tiny`; null: the policy's model"
    )
    scorer_train_file: str | None = Field(
        None, description="JSONL or CSV: text, label; or prompt, chosen, rejected; null: rows that are generated"
    )
    scorer_eval_file: str | None = Field(None, description="held-out rows; null: some of the training rows")
    scorer_rows: Count | None = option(
        None, "how many rows to generate; null: 20000 clicks or 500 pairs", needs={"scorer_train_file": (None,)}
    )
    scorer_dir: str = Field(
        "runs/scorer", min_length=1, description="directory for best_model, in which its report is too"
    )
    scorer_dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "auto", description="arithmetic of its forward; auto: bfloat16 where the device has it"
    )
    scorer_epochs: Count = Field(4, description="passes over the rows at most")
    scorer_batch_size: Count = Field(32, description="rows in an optimizer step")
    scorer_learning_rate: Positive = Field(5e-4, description="peak of AdamW's")
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
    scorer_tokens_per_micro_batch: Count = Field(8192, description="most tokens in one forward and backward pass")
    scorer_max_length: Count = Field(512, description="tokens of a text that are read")
    scorer_holdout: Positive = Field(0.2, description="share, or from 1 number, of rows kept for evaluation")
    scorer_margin: NotNegative = option(
        0.0, "by how much the better answer of a pair should win", needs={"scorer_kind": ("pair",)}
    )
