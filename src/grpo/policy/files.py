"""Models and tokenizers out of their files. No code in those files is ever run: safetensors and JSON only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from grpo.errors import CheckpointError, ModelError, first_line
from grpo.machine import is_out_of_memory
from grpo.policy.adapters import load_adapter
from grpo.policy.sources import ModelSource, find_source
from grpo.storage import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "load_model",
    "load_saved_weights",
    "load_tokenizer",
    "processor_files",
    "read_config",
    "without_progress_bars",
]

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")

_ATTENTION = ("_attn_implementation_internal", "attn_implementation", "_attn_implementation")
"""Names under which a configuration asks for an implementation of attention."""


def read_config(model: str | Path, *, revision: str | None = None, local: bool = True) -> Any:
    """Return a model's Hugging Face configuration, which leaves the choice of attention to transformers.

    A configuration may name an implementation that is not installed here (`flash_attention_2`), or a repository with
    kernels, which would be fetched and run.

    Args:
        model: a directory; with `local=False` also a Hub id.

    Raises:
        ModelError: it cannot be read, or asks for kernels from a repository.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            model, revision=revision or "main", trust_remote_code=False, local_files_only=local
        )
    except Exception as error:
        raise ModelError(f"the configuration of {model} cannot be read: {first_line(error)}") from error
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for part, name in itertools.product(parts, _ATTENTION):
        wanted = str(getattr(part, "__dict__", {}).get(name) or "")
        if "/" in wanted:
            raise ModelError(
                f"the configuration of {model} asks for attention kernels from the repository {wanted}, whose code "
                f"is not run: remove attn_implementation from its config.json"
            )
        if wanted:
            part._attn_implementation = None
    return config


def load_model(source: ModelSource, *, dtype: torch.dtype | None, trainable_adapter: bool = True) -> nn.Module:
    """Return the model, PEFT-wrapped if `source` is an adapter, on the CPU in evaluation mode.

    Args:
        dtype: of the weights; None: as they are on disk.

    Raises:
        ModelError: the files are missing, incomplete, of an unknown architecture, or not safetensors.
    """
    base = source if source.base is None else find_source(source.base)
    if base.base is not None:
        raise ModelError(
            f"{source.name} is an adapter on {base.name}, which is an adapter itself: merge that one first"
        )
    config = read_config(base.directory)
    try:
        with without_progress_bars():
            model, info = _auto_class(config).from_pretrained(
                base.directory,
                config=config,
                dtype="auto" if dtype is None else dtype,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    # The Rust reader has an exception of its own.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the model {base.name} does not load: {first_line(error)}") from error
    if info["missing_keys"]:
        raise ModelError(
            f"the model {base.name} lacks weights, {min(info['missing_keys'])} among them: is it a causal LM?"
        )
    assert isinstance(model, nn.Module)
    return model if source.base is None else load_adapter(model, source.directory, trainable=trainable_adapter)


def _auto_class(config: Any) -> Any:
    """Return the class that loads models of this kind: a causal one where what it saves can be loaded again.

    Some models that read images besides text have no causal class; of others, the text part has no class of its own.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    # `in` has no public form.
    causal, with_images = AutoModelForCausalLM._model_mapping, AutoModelForImageTextToText._model_mapping
    is_causal = type(config) in causal and causal[type(config)].config_class in causal
    return AutoModelForImageTextToText if not is_causal and type(config) in with_images else AutoModelForCausalLM


def load_saved_weights(model: Any, directory: Path) -> None:
    """Put the float32 weights that `model.save_pretrained` wrote in place of the present ones, all or none.

    Raises:
        CheckpointError: they are missing, damaged or of another model.
    """
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json: it is not a checkpoint of a run without LoRA")
    try:
        with without_progress_bars():
            saved, info = type(model).from_pretrained(
                directory,
                config=read_config(directory),
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise CheckpointError(f"the weights in {directory} do not load: {first_line(error)}") from error
    weights = saved.state_dict()
    shapes = {name: value.shape for name, value in weights.items()}
    if info["missing_keys"] or shapes != {name: value.shape for name, value in model.state_dict().items()}:
        raise CheckpointError(f"the weights in {directory} are of another model than the one being trained")
    model.load_state_dict(weights)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars for files on this machine into the run's own display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def processor_files(source: ModelSource) -> dict[str, bytes]:
    """Return the files by which a model prepares images, by name."""
    files = [source.directory / name for name in PROCESSOR_FILES]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def load_tokenizer(tokenizer: str | Path | PreTrainedTokenizerBase | None, source: ModelSource | None) -> Any:
    """Return the tokenizer: the one given, or else that of the model or of an adapter's base.

    Args:
        tokenizer: in memory, or a directory or Hub id; None: the model's own.
        source: of the model; None for a model in memory without a name.

    Raises:
        ModelError: there is none, or it does not load.
    """
    if tokenizer is None:
        if source is None:
            raise ModelError("a model in memory that was not loaded from files has no tokenizer: give it as well")
        if source.base is None or _has_tokenizer(source.directory):
            return _tokenizer_in(source.directory, source.name)
        return load_tokenizer(None, find_source(source.base))
    if not isinstance(tokenizer, (str, Path)):
        return tokenizer
    directory = expanded(tokenizer)
    return _tokenizer_in(directory if _has_tokenizer(directory) else find_source(tokenizer).directory, str(tokenizer))


def _tokenizer_in(directory: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    if not _has_tokenizer(directory):
        raise ModelError(
            f"{name} has no tokenizer (neither {' nor '.join(TOKENIZER_FILES)}): give one beside the model"
        )
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(f"the tokenizer of {name} does not load: {first_line(error)}") from error


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / file).is_file() for file in TOKENIZER_FILES)
