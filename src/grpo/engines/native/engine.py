"""`NativeEngine`: schedule, run, postprocess, with the policy's own module."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grpo.engines.native.fallback import LockstepRunner
from grpo.engines.native.fused_decoder import FusedDecoder, ModuleForward, Rotations
from grpo.engines.native.limits import ModelLimits, check_request, check_tokens
from grpo.engines.native.probe import decoder_structure, why_no_cache, why_not_fused, why_not_shared
from grpo.engines.native.runner import Runner, SharedPrefixRunner
from grpo.engines.native.sampling import sample, uniforms
from grpo.engines.native.scheduler import Admission, Scheduler
from grpo.engines.native.scoring import score_completions
from grpo.engines.native.weights import WeightSource
from grpo.errors import ConfigError, InputError, ModelError, RunError
from grpo.policy.attention import causal_lm, use_attention
from grpo.types import Completion, Request

__all__ = ["NativeEngine"]

_logger = logging.getLogger(__name__)


class NativeEngine:
    """Samples with a Hugging Face causal language model in this process, on the device it is on.

    Given the policy's own module it samples from its parameters, whatever the optimizer did to them. Where it computes
    from a copy (`weights`), the copy is renewed for the first prompts that it reads after a change.
    Each prompt is read once for all its completions, a completion that ends makes room for one that waits, and a
    completion depends on the weights, its prompt and its seed, not on what else is in the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        end_ids: Sequence[int],
        max_sequences: int = 256,
        max_cache_tokens: int = 2**18,
        max_prefill_tokens: int = 2**13,
        dtype: torch.dtype | None = None,
        policy_version: int = 0,
    ) -> None:
        """Make an engine.

        Args:
            model: a causal language model or a PEFT wrapper of one. Its attention is switched to ours if it can be.
            end_ids: tokens that end a completion; empty: only length does.
            max_sequences: completions that run at the same time.
            max_cache_tokens: tokens whose keys and values may be held, counting each completion at its full budget.
            max_prefill_tokens: prompt tokens in one forward pass (a longer prompt gets one of its own).
            dtype: compute in this type, with a copy of the weights or under autocast; None: as the parameters are.
            policy_version: version of the weights that the model has now.

        Raises:
            ConfigError: a limit is not positive.
        """
        limits = {
            "max_sequences": max_sequences,
            "max_cache_tokens": max_cache_tokens,
            "max_prefill_tokens": max_prefill_tokens,
        }
        for name, limit in limits.items():
            if limit < 1:
                raise ConfigError(f"{name}={limit} leaves no room: give at least 1")
        self.model = model
        self.dtype = dtype
        self._version = policy_version
        self._device = next(model.parameters()).device
        self._end_ids = np.array(sorted(set(end_ids)), dtype=np.int64)
        self._modules = tuple(model.modules())
        self._limits = ModelLimits.of(model)
        self._max_prefill_tokens = max_prefill_tokens
        self._weights: WeightSource | None = None
        self._new_runner = self._choose_runner()
        self._runner = self._new_runner()
        self._scheduler = self._new_scheduler(max_sequences, max_cache_tokens)

    @property
    def policy_version(self) -> int:
        """Version of the weights that it samples from."""
        return self._version

    @property
    def has_work(self) -> bool:
        """True while a completion of any request is still to be collected."""
        return self._scheduler.has_work

    @property
    def shares_prompts(self) -> bool:
        """True if each prompt is read once for its group; otherwise batches run in lockstep (`fallback`)."""
        return not self._runner.lockstep

    @property
    def runs_fused(self) -> bool:
        """True if the engine computes with its own forward pass (`fused_decoder`) instead of the model's modules."""
        return self._weights is not None

    @property
    def num_cache_bytes(self) -> int:
        """Memory that keys and values hold now."""
        return self._runner.num_cache_bytes

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InputError: the prompt is empty, does not fit the model or the cache, or the id is taken.
        """
        if self._scheduler.holds(request.id):
            raise InputError(f"request id {request.id} is taken: give each request in hand its own id")
        check_request(request, self._limits, self._scheduler.max_cache_tokens)
        self._scheduler.add(request)

    def step(self) -> None:
        """Do the next piece of work, if there is any: at most one token for each running completion."""
        admission = self._scheduler.admit()
        if admission is None and self._scheduler.num_rows == 0:
            return
        with self._inference():
            logits = self._decode() if admission is None else self._prefill(admission)
            self._postprocess(logits, first=self._scheduler.first_row(admission))

    def collect(self) -> list[tuple[int, int, Completion]]:
        """Return the completions that ended since the last call: request id, index of the seed, completion."""
        return self._scheduler.collect()

    def holds(self, request_id: int) -> bool:
        """Return whether a completion of that request is still to be collected."""
        return self._scheduler.holds(request_id)

    def running(self, request_id: int) -> list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """Return the index, the tokens and their log-probabilities of each running completion of a request."""
        return self._scheduler.running(request_id)

    def cancel(self, request_id: int) -> None:
        """Drop one request; the others continue."""
        rows, slots = self._scheduler.cancel(request_id)
        with self._inference():
            self._runner.leave(rows)
            self._runner.forget(slots)

    def abort(self) -> None:
        """Drop every request."""
        self._runner = self._new_runner()
        self._scheduler = self._new_scheduler(self._scheduler.max_sequences, self._scheduler.max_cache_tokens)

    def load_weights(self, source: nn.Module | Mapping[str, Tensor], version: int) -> None:
        """Sample from the weights of `source` from now on.

        Given the module the engine runs, only the version is new; the weights of another module or a state
        dictionary are copied into the engine's.

        Raises:
            RunError: completions are running: their cached keys and values belong to the old weights.
            ModelError: `source` is of another architecture or size.
        """
        if not self._scheduler.is_idle:
            raise RunError(
                f"{self._scheduler.num_rows} completions are still running: "
                f"collect or abort them before loading weights"
            )
        shared = isinstance(source, nn.Module) and causal_lm(source) is causal_lm(self.model)
        if not shared:
            state = source.state_dict() if isinstance(source, nn.Module) else source
            try:
                self.model.load_state_dict(state)
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(f"the weights do not fit the engine's model: {reason}") from error
        self._modules = tuple(self.model.modules())
        if self._weights is not None:
            self._weights.invalidate()
        self._version = version

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of each completion after its prompt.

        Feeds the completions, token by token, to a cache of its own: requests in hand are not disturbed.

        Raises:
            InputError: lists of different length, or a prompt that is empty or, with its completion, too long.
        """
        if len(prompts) != len(completions):
            raise InputError(f"{len(prompts)} prompts and {len(completions)} completions: give one of each to score")
        for prompt, completion in zip(prompts, completions, strict=True):
            check_tokens(prompt, len(completion), self._limits)
        with self._inference():
            return score_completions(
                self._new_runner,
                prompts,
                completions,
                temperature=temperature,
                max_sequences=self._scheduler.max_sequences,
                max_prefill_tokens=self._max_prefill_tokens,
                device=self._device,
            )

    def _decode(self) -> Tensor:
        tokens = torch.from_numpy(self._scheduler.last_tokens()).to(self._device)
        return self._runner.decode(tokens)

    def _prefill(self, admission: Admission) -> Tensor:
        """Read the new prompts and return the logits of each new row's first token."""
        if admission.new_groups:
            logits = self._runner.prefill([group.request.prompt_ids for group in admission.new_groups])
            for group, first_logits in zip(admission.new_groups, logits, strict=True):
                group.first_logits = first_logits
        self._runner.join(np.array([group.slot for group in admission.row_groups], dtype=np.int64))
        rows = []
        for group in admission.row_groups:
            assert group.first_logits is not None
            rows.append(group.first_logits)
        for group in admission.row_groups:
            if group.num_admitted == len(group.request.seeds):
                group.first_logits = None
        return torch.stack(rows)

    def _postprocess(self, logits: Tensor, first: int) -> None:
        streams, indices, how = self._scheduler.draws(first)
        tokens, logprobs = sample(logits, uniforms(streams, indices), how)
        drawn = tokens.cpu().numpy()
        done = self._scheduler.record(first, drawn, logprobs.cpu().numpy(), np.isin(drawn, self._end_ids))
        if len(done):
            self._runner.leave(done)
            self._runner.forget(self._scheduler.finish(done, self._end_ids, self._version))

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Switch gradients and dropout off; restore the mode of each module at the end."""
        if self._weights is not None:
            with torch.inference_mode():
                yield
            return
        training = [module for module in self._modules if module.training]
        # Module's own __setattr__ looks for parameters first and would cost as much as a layer, every step.
        for module in training:
            object.__setattr__(module, "training", False)
        autocast = nullcontext() if self.dtype is None else torch.autocast(self._device.type, self.dtype)
        try:
            with torch.inference_mode(), autocast:
                yield
        finally:
            for module in training:
                object.__setattr__(module, "training", True)

    def _new_scheduler(self, max_sequences: int, max_cache_tokens: int) -> Scheduler:
        return Scheduler(
            max_sequences=max_sequences,
            max_cache_tokens=max_cache_tokens,
            max_prefill_tokens=self._max_prefill_tokens,
            lockstep=self._runner.lockstep,
        )

    def _choose_runner(self) -> Callable[[], Runner]:
        """Return a function that makes runners: fused, by modules or in lockstep, the first with the model's logits."""
        name = type(causal_lm(self.model)).__name__
        reason: str | None = "its attention cannot be replaced"
        if use_attention(self.model):
            fused, why_not = self._try_fused()
            if fused is not None:
                return fused
            _logger.info("%s runs by its own modules (%s): generating more slowly", name, why_not)
            with self._inference():
                reason = why_not_shared(self.model, self._shared_runner)
        if reason is None:
            return self._shared_runner
        _logger.warning(
            "%s cannot share prompts among completions (%s): generating in lockstep with its own cache, more slowly",
            name,
            reason,
        )
        with self._inference():
            no_cache = why_no_cache(self.model, LockstepRunner(self.model))
        if no_cache is not None:
            _logger.warning(
                "%s cannot go on from its cache (%s): each token reads all before it again, which is much slower",
                name,
                no_cache,
            )
        return lambda: LockstepRunner(self.model, keeps_cache=no_cache is None)

    def _try_fused(self) -> tuple[Callable[[], Runner] | None, str | None]:
        """Return a function that makes fused runners, or the reason why the model can have none."""
        with self._inference():
            decoder = decoder_structure(self.model)
            if isinstance(decoder, str):
                return None, decoder
            weights, rotations = WeightSource(decoder, self.dtype), Rotations(decoder.rotary, self._device)

            def fused() -> SharedPrefixRunner:
                forward = FusedDecoder(weights, rotations)
                return SharedPrefixRunner(forward, max_prefill_tokens=self._max_prefill_tokens, device=self._device)

            reason = why_not_fused(self.model, fused)
        if reason is not None:
            return None, reason
        self._weights = weights
        return fused, None

    def _shared_runner(self) -> SharedPrefixRunner:
        return SharedPrefixRunner(
            ModuleForward(self.model), max_prefill_tokens=self._max_prefill_tokens, device=self._device
        )
