"""`GRPOTrainer`: a run from Python, with names or objects."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.assembly.answers import complete, evaluate_parts
from grpo.assembly.assembly import Parts, assemble
from grpo.assembly.objects import PythonObjects, require_model_and_rows, settle
from grpo.assembly.resuming import resume_with
from grpo.assembly.runs import train_parts
from grpo.config import GRPOConfig
from grpo.errors import ConfigError
from grpo.machine import memory_errors
from grpo.tasks import read_rows
from grpo.trainer import Outcome

__all__ = ["GRPOTrainer"]


class GRPOTrainer:
    """Trains a language model with GRPO.

    Arguments have the names of this project; those that users of TRL and of other trainers are used to
    (`args`, `processing_class`, `reward_funcs`, `reward_model`, `ref_model`) are taken as well.

    Args:
        model: a Hub id, a directory, `tiny`, or a Hugging Face causal LM, which is trained in place;
            None: the one that `config` names.
        config: a `GRPOConfig`; None: its defaults.
        tokenizer: a name or a Hugging Face tokenizer; None: the model's own.
        train_dataset: a list of prompts (texts or messages), a list of rows, a `datasets.Dataset`, or a file's or
            Hub data set's name; None: those that `config` names. Rows with an `answer` are judged by it.
        eval_dataset: the same, for evaluation; None: as `config` says (`eval_size` holds out training rows).
        rewards: reward functions with the signature `f(prompts, completions, completion_ids, **columns)`, names
            of built-in ones, sequence classifiers, or mappings with `name`, `weight` and parameters; None:
            as `config` says.
        reward_weights: one a reward, in place of weights in mappings.
        reference_model: what the KL term is measured against; None: the model as it was at the start.
        environment: an object with `rollout`, or a class with `reset`, `step` and `close` (`grpo.environments`), of
            which each episode gets one; None: as `config` says, by default one completion an episode.

    Raises:
        InputError: an argument cannot be used.

    Example:
        trainer = GRPOTrainer(model="tiny", config=GRPOConfig(steps=60, learning_rate=1e-3), rewards=my_reward,
                              train_dataset=["What is 2 + 3?", …])
        summary = trainer.train()
    """

    def __init__(
        self,
        model: Any = None,
        config: GRPOConfig | None = None,
        *,
        tokenizer: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        rewards: Any = None,
        reward_weights: Sequence[float] | None = None,
        reference_model: Any = None,
        environment: Any = None,
        args: GRPOConfig | None = None,
        processing_class: Any = None,
        reward_funcs: Any = None,
        reward_model: Any = None,
        ref_model: Any = None,
    ) -> None:
        rewards = _one_of("reward_funcs", reward_funcs, "reward_model", reward_model, "rewards", rewards)
        if rewards is not None and not isinstance(rewards, list | tuple):
            rewards = [rewards]
        objects = PythonObjects(
            model=model,
            tokenizer=_one_of("tokenizer", tokenizer, "processing_class", processing_class),
            train_rows=train_dataset,
            eval_rows=eval_dataset,
            rewards=rewards,
            reward_weights=reward_weights,
            reference_model=_one_of("reference_model", reference_model, "ref_model", ref_model),
            environment=environment,
        )
        config = _one_of("config", config, "args", args)
        if config is not None and not isinstance(config, GRPOConfig):
            raise ConfigError(f"config is a {type(config).__name__}: give a grpo.GRPOConfig")
        config = config or GRPOConfig()
        require_model_and_rows(config, objects)
        self.config, self._objects = settle(config, objects)
        with memory_errors():
            self._parts: Parts = assemble(self.config, self._objects)

    @property
    def model(self) -> Any:
        """The Hugging Face module that is trained, PEFT-wrapped under LoRA."""
        return self._parts.policy.model

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._parts.policy.tokenizer

    def train(self, *, resume_from: str | Path | None = None) -> Mapping[str, Any]:
        """Train, write the run directory and return the summary, which `summary.json` in that directory holds as well.

        Its keys: `eval_before` and `eval_after` (evaluations as `evaluate` returns them, None without held-out rows),
        `steps`, `seconds`, `completion_tokens`, `completion_tokens_per_s`, `peak_memory_mb`, `final_model` (the
        directory of the trained model) and, where rewards count something, `reward_totals`. The section on
        `summary.json` in docs/metrics.md explains them; `metrics.jsonl` in the run directory has the steps.

        Args:
            resume_from: a run directory to resume, where options that this trainer's config sets replace the
                run's own; None: a new run, from the weights as they are.

        Raises:
            InputError: the output directory or the run to resume cannot be used.
            RunError: it failed while running; what was saved before is intact.
            KeyboardInterrupt: after SIGINT, once the step is finished and saved.
            SystemExit: after SIGTERM, likewise.
        """
        with memory_errors():
            if resume_from is None:
                outcome = train_parts(self._parts)
            else:
                options = self.config.explicit_options()
                outcome, self._parts = resume_with(resume_from, self._parts_for, options, self._objects.names())
                self.config = self._parts.config
        return _summary(outcome)

    def evaluate(self) -> Mapping[str, Any]:
        """Return the rewards and accuracies of the present model on the held-out rows.

        Keys are those of `eval.jsonl` in docs/metrics.md without `step`: always `prompts`, `samples_per_prompt`,
        `reward`, `rewards` (by name), `completion_length` and `truncated_share`; `accuracy` and its variants where
        rows have answers; `format_rate` where the format has tags; intervals as `…_ci95`.

        Raises:
            DataError: nothing is held out.
        """
        with memory_errors():
            return evaluate_parts(self._parts)

    def generate(self, prompts: Sequence[Any], *, num_completions: int = 1) -> list[list[str]]:
        """Return `num_completions` texts for each prompt (a text or messages), sampled as `config` says."""
        rows = read_rows([prompts] if isinstance(prompts, str) else list(prompts))
        parts = self._parts
        with memory_errors():
            answers = complete(self.config, parts.policy, rows, num_completions=num_completions, sampler=parts.sampler)
            return [list(answer["completions"]) for answer in answers]

    def save_model(self, directory: str | Path) -> None:
        """Write what `AutoModelForCausalLM` and `AutoTokenizer` load: the model, or its adapter."""
        self._parts.policy.save(Path(directory))

    def _parts_for(self, config: GRPOConfig) -> Parts:
        """Return the parts of a resumed run.

        A model in memory may have been trained since, so the reference that was taken of it first stays.
        """
        if self._objects.model is None:
            return assemble(config, self._objects)
        names = ("policy", "policy's beta")
        options = self.config.policy.model_copy(update={"threads": config.policy.threads})
        ours = (options, self.config.algorithm.beta > 0)
        theirs = (config.policy, config.algorithm.beta > 0)
        for name, mine, wanted in zip(names, ours, theirs, strict=True):
            if mine != wanted:
                raise ConfigError(f"the run's {name} options are not those of this trainer: give it the same config")
        return assemble(config, self._objects, policy=self._parts.policy)


def _summary(outcome: Outcome) -> Mapping[str, Any]:
    """Return the summary of a run that ended by itself; a signal ends the program, as it would have without us."""
    if outcome.signal_number is None:
        return outcome.summary
    if outcome.signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + outcome.signal_number)


def _one_of(*names_and_values: Any) -> Any:
    """Return the one value that is not None of alternating names and values."""
    given = {
        name: value
        for name, value in zip(names_and_values[::2], names_and_values[1::2], strict=True)
        if value is not None
    }
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} mean the same: give one of them")
    return next(iter(given.values()), None)
