"""Loading: a model's name → a `Policy`."""

from __future__ import annotations

import copy
import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from grpo.errors import ConfigError, ModelError
from grpo.policy.adapters import (
    TRAINED,
    LoraSettings,
    add_adapter,
    keep_adapter_copy,
    keep_embeddings,
    refuse_virtual_tokens,
)
from grpo.policy.architecture import modules_beside_text
from grpo.policy.attention import causal_lm, use_attention
from grpo.policy.files import load_model, load_tokenizer, processor_files, read_config
from grpo.policy.fused import compile_layers, use_fused_layers
from grpo.policy.policy import Policy, Reference
from grpo.policy.products import use_fast_products
from grpo.policy.self_check import choose_forward
from grpo.policy.sources import ModelSource, find_source
from grpo.policy.tokens import choose_pad_token, find_end_tokens
from grpo.seeding import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_policy"]

logger = logging.getLogger(__name__)


def load_policy(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    dtype: str = "auto",
    device: str = "auto",
    lora: LoraSettings | None = None,
    reference: str | Path | PreTrainedModel = "none",
    revision: str | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    seed: int = 0,
) -> Policy:
    """Return the policy, ready to be trained and sampled from.

    Of a model that reads images besides text, the text part is trained; the rest stays as it is and is saved with it.

    The model's own dropout is switched off for good (`from_pretrained` leaves it in the config): noise in the
    log-probabilities would separate the policy that sampled from the one that is trained. Adapters keep theirs.

    Args:
        model: "tiny", a Hub id, a model's, adapter's or run's directory, or a model in memory, which is then
            trained in place (with PEFT, its adapter is trained further).
        tokenizer: None: the model's own.
        dtype: "float32" or "bfloat16", the type of the computations; "auto": bfloat16 on a GPU, float32 on a CPU.
            Weights that are trained are float32 in any case; under LoRA "bfloat16" also halves the frozen base.
        device: "cpu", "cuda" or "cuda:1"; "auto": a GPU if there is one.
        lora: train adapters of this shape; None: all weights, or the adapter if `model` is one.
        reference: "none"; "start": the policy as it is now (adapters off under LoRA, a copy of what is trained
            otherwise); or another model.
        revision: of `model` on the Hub: branch, tag or commit.
        gradient_checkpointing: compute activations again in backward instead of keeping them.
        compile: compile norms and gated units with `torch.compile`; the first steps then take longer.
        seed: of fresh adapters.

    Raises:
        ModelError: model or tokenizer is missing, does not load or lacks an end token.
        ConfigError: dtype or device is not available, or LoRA is asked for on top of an adapter.
    """
    target = _device(device)
    compute_dtype = _compute_dtype(dtype, target)
    dtype_of_all = torch.float32 if lora is None else compute_dtype
    source, module = _open(model, revision, dtype_of_all, adapter_dtype=compute_dtype)
    had_adapter = hasattr(module, "peft_config")
    trains_adapter = had_adapter or lora is not None
    if had_adapter:
        _activate_adapter(module, lora, has_reference=reference == "start")
    tokenizer = load_tokenizer(tokenizer, source)
    end_token_ids = find_end_tokens(causal_lm(module), tokenizer)
    pad_token_id = choose_pad_token(causal_lm(module), tokenizer, end_token_ids)
    module = _place(module, target, compute_dtype if trains_adapter else torch.float32)
    _speed_up(module, compile=compile)
    can_attend = use_attention(module)
    # Only now: layers may get a configuration of their own, which names the attention too.
    _switch_off_dropout(module)
    forward = choose_forward(module, pad_token_id, can_attend=can_attend)
    beside = None
    if reference == "start" and not trains_adapter:
        beside = Reference(_frozen(copy.deepcopy(module)), forward)
    elif reference not in ("none", "start"):
        beside = _other_reference(reference, module, target, compute_dtype, pad_token_id)
    untouched = modules_beside_text(causal_lm(module))
    if lora is not None:
        module = add_adapter(module, lora, seed=derive_seed(seed, "lora"), excluded=untouched)
    elif had_adapter and reference == "start":
        keep_adapter_copy(module)
    elif not had_adapter:
        module.requires_grad_(True)
        for name in untouched:
            module.get_submodule(name).requires_grad_(False)
    if trains_adapter and source is not None and _was_resized(module, source):
        keep_embeddings(module)
    _make_savable(causal_lm(module))
    _require_savable(module, tokenizer)
    if trains_adapter and source is None:
        logger.warning(
            "the base model in memory has no name: what is saved is the adapter alone, keep the base beside it"
        )
    # Adapters have added layers.
    use_fast_products(module)
    if gradient_checkpointing:
        _checkpoint_gradients(causal_lm(module))
    return Policy(
        module,
        tokenizer,
        end_token_ids=end_token_ids,
        pad_token_id=pad_token_id,
        forward=forward,
        compute_dtype=compute_dtype,
        base_name=_base_name(source),
        reference=beside,
        reference_is_adapter=reference == "start" and trains_adapter,
        processor_files=processor_files(source) if untouched and source is not None and not trains_adapter else {},
    )


def _open(
    model: Any, revision: str | None, dtype: torch.dtype, *, adapter_dtype: torch.dtype
) -> tuple[ModelSource | None, nn.Module]:
    """Return the model and the place of its files, None if it has none.

    A model is loaded in the data type that it will have, because its buffers are made in that type.

    Args:
        dtype: of a whole model.
        adapter_dtype: of the base of an adapter.
    """
    if isinstance(model, (str, Path)):
        source = find_source(model, revision=revision)
        return source, load_model(source, dtype=dtype if source.base is None else adapter_dtype)
    if not isinstance(model, nn.Module) or not hasattr(causal_lm(model), "get_output_embeddings"):
        raise ModelError(f"a model is a name, a directory or a Hugging Face causal LM, not {type(model).__name__}")
    name = getattr(causal_lm(model).config, "_name_or_path", "")
    try:
        return (find_source(name) if name else None), model
    except ModelError:
        return None, model


def _activate_adapter(module: Any, lora: LoraSettings | None, *, has_reference: bool) -> None:
    """Make the adapter of the given model the one that is trained.

    Args:
        has_reference: the model without its adapter is the reference.
    """
    if lora is not None:
        raise ConfigError("the model is an adapter already: leave out LoRA's settings to continue its training")
    if module.active_adapters != [TRAINED]:
        raise ModelError(f"the active adapter is {module.active_adapters}: it must be the one named {TRAINED!r}")
    config = module.peft_config[TRAINED]
    refuse_virtual_tokens(config)
    if has_reference and (bias := getattr(config, "bias", "none")) != "none":
        raise ModelError(
            f"the adapter trains biases of its base (bias={bias!r}), so the base is no reference for the KL term: "
            f"set beta=0, give a reference_model, or use an adapter with bias='none'"
        )
    module.set_adapter(TRAINED)


def _was_resized(module: nn.Module, source: ModelSource) -> bool:
    """Return whether a model in memory has another number of embeddings than its base on disk."""
    base = source if source.base is None else find_source(source.base)
    sizes = [config.get_text_config().vocab_size for config in (causal_lm(module).config, read_config(base.directory))]  # type: ignore[operator,union-attr]
    return bool(sizes[0] != sizes[1])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}: use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but PyTorch sees no GPU: use 'cpu' or 'auto'")
    if device.type == "mps":
        raise ConfigError(f"device {name!r} lacks float64, which tokens are sampled in: use 'cpu' or 'auto'")
    return device


def _compute_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    raise ConfigError(f"dtype {name!r} is not supported: use 'auto', 'bfloat16' or 'float32'")


def _place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return the module on `device`: adapters in float32, all else in `dtype` (quantized weights as they are)."""
    if not getattr(causal_lm(module), "is_quantized", False):
        if dtype == torch.float32:
            _restore_buffers(causal_lm(module))
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point():
                is_adapter = hasattr(module, "peft_config") and f".{TRAINED}." in name
                parameter.data = parameter.data.to(torch.float32 if is_adapter else dtype)
        module.to(device)
    return module


def _restore_buffers(model: Any) -> None:
    """Compute buffers that no file holds again in float32, where a model in memory was made in a shorter type.

    Gemma's scale of embeddings is one. The saved model will have them in full precision.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    if all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.is_floating_point()):
        return
    with init_empty_weights(include_buffers=False):
        fresh = type(model)(copy.deepcopy(model.config))
    exact = dict(fresh.named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and buffer.is_floating_point() and name in exact and exact[name].shape == buffer.shape:
            buffer.data = exact[name].to(buffer.device)


def _switch_off_dropout(module: nn.Module) -> None:
    without_dropout: dict[int, Any] = {}
    for name, part in module.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        # Some layers pass a plain number to a function, or decide by it to skip themselves.
        for attribute in _dropout_names(part):
            setattr(part, attribute, 0.0)
        config = vars(part).get("config")
        # Some layers read their configuration at every call. The model's own, which is saved, stays as it is.
        if config is not None and not hasattr(part, "save_pretrained") and _dropout_names(config):
            part.config = without_dropout.setdefault(id(config), _without_dropout(config))


def _dropout_names(holder: object) -> list[str]:
    """Return the attributes that are probabilities above 0 of dropping something."""
    attributes = getattr(holder, "__dict__", {})
    return [name for name, value in attributes.items() if "drop" in name and isinstance(value, float) and value > 0]


def _without_dropout(config: Any) -> Any:
    config = copy.copy(config)
    for name in _dropout_names(config):
        setattr(config, name, 0.0)
    return config


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


def _other_reference(
    reference: Any, policy: nn.Module, device: torch.device, dtype: torch.dtype, pad_token_id: int
) -> Reference:
    """Return the model that was named as reference, frozen."""
    source, module = _open(reference, None, dtype, adapter_dtype=dtype)
    sizes = [causal_lm(each).config.get_text_config().vocab_size for each in (policy, module)]  # type: ignore[operator,union-attr]
    if sizes[0] != sizes[1]:
        name = source.name if source is not None else "in memory"
        raise ModelError(
            f"the reference {name} has {sizes[1]} tokens and the policy {sizes[0]}: they must share a vocabulary"
        )
    module = _frozen(_place(module, device, dtype))
    _speed_up(module)
    return Reference(module, choose_forward(module, pad_token_id, can_attend=use_attention(module)))


def _speed_up(module: nn.Module, *, compile: bool = False) -> None:
    """Give layers their faster forms; outputs and saved files stay the same."""
    use_fast_products(module)
    if compile:
        compile_layers(module)
    else:
        use_fused_layers(module)


def _make_savable(module: Any) -> None:
    """Correct the generation settings of some published models, which transformers loads but refuses to save.

    Sampling is switched on where settings of sampling are given; settings that are then still invalid are left out.
    """
    settings = getattr(module, "generation_config", None)
    if settings is None or not _invalid_settings(settings):
        return
    settings.do_sample = True
    left_out: dict[str, Any] = {}
    while invalid := [name for name in _invalid_settings(settings) if name not in left_out]:
        for name in invalid:
            left_out[name] = getattr(settings, name, None)
            setattr(settings, name, None)
    if left_out:
        shown = ", ".join(f"{name}={value!r}" for name, value in left_out.items())
        logger.warning("the model's generation settings %s cannot be saved: saved models do without", shown)


def _invalid_settings(settings: Any) -> list[str]:
    """Return the names of generation settings that transformers refuses to save."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        settings.validate(strict=True)
    except ValueError as error:
        return re.findall(r"^- `(\w+)`", str(error), flags=re.MULTILINE)
    finally:
        transformers_logging.set_verbosity(level)
    return []


def _require_savable(module: Any, tokenizer: Any) -> None:
    """Write the small files of a saved model once, so that what makes saving fail shows before the first step.

    Raises:
        ModelError: one of them cannot be written.
    """
    model = causal_lm(module)
    parts = {"configuration": model.config, "generation settings": getattr(model, "generation_config", None)}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in {**parts, "tokenizer": tokenizer}.items():
            try:
                if part is not None:
                    part.save_pretrained(folder)
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(f"the {name} of {type(model).__name__} cannot be saved: {reason}") from error


def _checkpoint_gradients(module: Any) -> None:
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise ConfigError(f"{type(module).__name__} has no gradient checkpointing: set it to false")
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _base_name(source: ModelSource | None) -> str:
    """Return the name by which transformers and PEFT load the base of adapters."""
    if source is None:
        return ""
    return (find_source(source.base) if source.base is not None else source).loadable_name
