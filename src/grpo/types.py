"""The data that flows through a step, one frozen type for each stage.

    Prompt → (Request → Completion) → Rollout → Group → ScoredGroup → (packing.PackedBatch)

These types do not compute. A later stage makes a new object and never changes an old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "Completion",
    "FinishReason",
    "Group",
    "Message",
    "Prompt",
    "Request",
    "Rollout",
    "SamplingParams",
    "Score",
    "ScoredGroup",
    "ScoredRollout",
    "Verdict",
]

Message: TypeAlias = Mapping[str, Any]
"""One chat message: `{"role": "user", "content": "…"}`; both are texts, and there may be others, as `tool_calls`."""

FinishReason: TypeAlias = Literal["stop", "length"]
"""`stop`: the policy sampled an end token (kept in `token_ids`); `length`: the budget ran out."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question put to the policy.

    Attributes:
        row: number of its row in the data set; stable across runs of one data set.
        raw: the prompt as the row had it (a string, or chat messages), which reward functions see.
        text: the prompt as the policy reads it, chat template applied.
        token_ids: `text` in tokens.
        columns: the row's other columns (`answer`, …), handed to reward functions by name.
        template_options: variables that the chat template got besides the messages.
    """

    row: int
    raw: str | Sequence[Message]
    text: str
    token_ids: tuple[int, ...]
    columns: Mapping[str, Any]
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """Request for `len(seeds)` completions of one prompt; each seed starts the random stream of one completion.

    `position` is (place of the prompt in its batch, place in its group): waiting requests are admitted in that order.
    """

    id: int
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingParams
    position: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of one prompt as a sampler returns it. All sequences have the same length.

    Attributes:
        token_ids: the sampled tokens, the end token included.
        logprobs: see `Rollout.logprobs`.
        policy_versions: the version of the weights that each token was drawn with.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One episode: the tokens after a prompt, of one completion or of several turns with an environment.

    The per-token sequences have the same length.

    Attributes:
        token_ids: tokens after the prompt, end tokens included.
        sampled: True where the policy drew the token (False: written by the environment, never trained on).
        logprobs: natural log-probability of each token under softmax(logits / temperature) over the
            whole vocabulary, before top-k, top-p and min-p cut it (at temperature 0: temperature 1);
            0.0 where `sampled` is False.
        finish_reason: of the last sampled turn.
        policy_version: the oldest weights that any of its tokens was drawn with.
        messages: the turns after the prompt as messages, the policy's as `assistant`; empty for a single completion.
        rewards: rewards that the environment gave, by name; None: not applicable.
        info: reported by the environment for the log.
    """

    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int
    messages: tuple[Message, ...] = ()
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, completion: Completion) -> Rollout:
        """Return the rollout that consists of one completion."""
        return cls(
            token_ids=completion.token_ids,
            sampled=(True,) * len(completion.token_ids),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            policy_version=min(completion.policy_versions, default=0),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions sampled for one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """The rewards of one completion.

    Attributes:
        rewards: by function name, before weighting. None: not applicable, or failed (then it is in `failures`).
        failures: by function name, the exception in one line.
        total: weighted sum of the rewards of whole completions; None when a function failed, or all returned None
            (the completion is unscored). Such a completion is left out of its group's baseline and has advantage 0.
        token_rewards: weighted sum of per-token rewards, one entry a token, None where no function
            rewarded that token; None altogether when no function gives per-token rewards.
        counted: by function name, the weight and the reward (after gates) of each function that rewarded the
            completion as a whole; `total` is the sum of the products.
    """

    rewards: Mapping[str, float | None]
    failures: Mapping[str, str]
    total: float | None
    token_rewards: tuple[float | None, ...] | None = None
    counted: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_unscored(self) -> bool:
        """True where no reward applies to the completion, and none failed."""
        return self.total is None and not self.failures

    @property
    def sum(self) -> float | None:
        """The total with all token rewards added; None where `total` is."""
        if self.total is None:
            return None
        return self.total + sum(reward for reward in self.token_rewards or () if reward is not None)


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout, its text (decoded for rewards and logs only), its score and values that reward functions logged."""

    rollout: Rollout
    text: str
    score: Score
    logged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A prompt with its G scored completions."""

    prompt: Prompt
    rollouts: tuple[ScoredRollout, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one completion against its row's answer.

    Attributes:
        strict: in the required format, and right.
        lenient: the right answer can be found in it, format or not.
        well_formed: in the required format, right or not.
        answer: the answer that was read, for histograms; None when there is none.
    """

    strict: bool
    lenient: bool
    well_formed: bool
    answer: str | None
