"""A policy, an engine and scored groups, made once from the embedded model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

# Before torch is imported. Tests are small: a second thread costs more than it brings.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell lets the commands that it starts in the background ignore interrupts, which the tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo.engines.native import NativeEngine, NativeSampler
from grpo.policy import Policy, load_policy
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rollout import EpisodeCollector, RolloutCollector
from grpo.tasks import PromptOrder, arithmetic_task, find_format, render
from grpo.types import Prompt, SamplingParams

WORDS = ["<pad>", "<end>", "<unk>", "user", "assistant", *"abcdefghijklmnopqrstuvwxyz0123456789+=?.: "]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}<end>{% endfor %}"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one token a character, with a chat template."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("user|assistant|."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture
def tiny_policy() -> Policy:
    return load_policy("tiny", dtype="float32", device="cpu", reference="start")


@pytest.fixture
def sums(tiny_policy: Policy) -> list[Prompt]:
    answer_format = find_format("answer_tags")
    task = arithmetic_task(
        train_size=None, eval_size=8, max_operand=12, operators="+-", answer_format=answer_format, seed=0
    )
    return render(task.train, tiny_policy.tokenizer, system_prompt=answer_format.system_prompt).prompts


@pytest.fixture
def make_collector(tiny_policy: Policy, sums: list[Prompt]) -> Callable[..., RolloutCollector]:
    """Return what makes a collector of small steps on the embedded model."""

    def make(
        rewards: object = ("strict_format", "correctness"), *, temperature: float = 1.0, **options: object
    ) -> RolloutCollector:
        settings = {
            "prompts_per_step": 3,
            "group_size": 4,
            "zero_variance_groups": "keep",
            "max_resamples": 0,
            **options,
        }
        return RolloutCollector(
            EpisodeCollector(
                NativeSampler(NativeEngine(tiny_policy.model, end_ids=tiny_policy.end_token_ids)),
                lambda ids: list(tiny_policy.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)),
            ),
            PromptOrder(sums, 0),
            RewardSuite(resolve_rewards(list(rewards) if isinstance(rewards, tuple) else rewards)),
            sampling=SamplingParams(max_tokens=20, temperature=temperature),
            max_steps=10,
            seed=0,
            **settings,  # type: ignore[arg-type]
        )

    return make
