from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from grpo.errors import ConfigError, ModelError
from grpo.rewards import RewardSuite, SequenceClassifierReward, resolve_rewards
from grpo.rewards.models.backbones import Backbones

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
PROMPTS = ["1+1=", "what is 2+2? ", "3"]
COMPLETIONS = ["2", "it is 4 i think", ""]


def qwen(num_labels=1, **options):
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8, num_labels=num_labels, **options)
    return Qwen3ForSequenceClassification(config)


def logits_one_by_one(model, tokenizer, texts):
    model.eval()
    with torch.no_grad():
        ids = [torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
        return torch.cat([model(input_ids=row).logits for row in ids])


def test_the_reward_is_the_logit_of_prompt_and_completion_whatever_the_batch(tokenizer):
    model = qwen()
    wanted = logits_one_by_one(copy.deepcopy(model), tokenizer, map("".join, zip(PROMPTS, COMPLETIONS, strict=True)))
    for batch_size in (1, 2, 16):
        reward = SequenceClassifierReward(model, tokenizer=tokenizer, batch_size=batch_size)
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx(wanted[:, 0].tolist(), abs=1e-6)


def test_chat_prompts_are_written_with_the_template_of_the_classifiers_tokenizer(tokenizer):
    model = qwen()
    prompt = [{"role": "user", "content": "1+1"}]
    completion = [{"role": "assistant", "content": "2"}]
    wanted = logits_one_by_one(copy.deepcopy(model), tokenizer, ["user:1+1<end>assistant:2<end>"])
    rewards = SequenceClassifierReward(model, tokenizer=tokenizer)([prompt], [completion])
    assert rewards == pytest.approx(wanted[:, 0].tolist(), abs=1e-6)


def test_the_model_is_in_evaluation_mode_and_builds_no_graph(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_labels=1, attention_dropout=0.9)
    model = LlamaForSequenceClassification(config).train()
    reward = SequenceClassifierReward(model, tokenizer=tokenizer)
    assert not model.training
    assert reward(PROMPTS, COMPLETIONS) == reward(PROMPTS, COMPLETIONS)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_several_labels_the_reward_is_the_probability_of_the_one_that_is_named(tokenizer):
    names = {0: "bad", 1: "fair", 2: "good"}
    model = qwen(num_labels=3, id2label=names, label2id={name: index for index, name in names.items()})
    texts = list(map("".join, zip(PROMPTS, COMPLETIONS, strict=True)))
    wanted = logits_one_by_one(copy.deepcopy(model), tokenizer, texts).softmax(-1)[:, 2].tolist()
    for label in (2, "good"):
        reward = SequenceClassifierReward(model, tokenizer=tokenizer, label=label)
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx(wanted, abs=1e-6)


def test_a_multi_label_model_gives_each_label_a_probability_of_its_own(tokenizer):
    model = qwen(num_labels=2, problem_type="multi_label_classification")
    texts = list(map("".join, zip(PROMPTS, COMPLETIONS, strict=True)))
    wanted = logits_one_by_one(copy.deepcopy(model), tokenizer, texts).sigmoid()[:, 1].tolist()
    reward = SequenceClassifierReward(model, tokenizer=tokenizer, label=1)
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("num_labels", "label", "message"),
    [
        (2, None, r"has 2 labels, got label=None: use one of \['LABEL_0', 'LABEL_1'\]"),
        (2, "good", r"got label='good': use one of"),
        (2, 2, r"got label=2: use one of"),
        (1, 0, r"has 1 labels, got label=0: use none"),
    ],
)
def test_a_label_that_does_not_say_what_is_rewarded_is_refused(tokenizer, num_labels, label, message):
    with pytest.raises(ConfigError, match=message):
        SequenceClassifierReward(qwen(num_labels), tokenizer=tokenizer, label=label)


def test_an_encoder_gets_the_token_that_it_reads_the_class_from(tokenizer):
    encoder_tokenizer = copy.deepcopy(tokenizer)
    encoder_tokenizer.cls_token = "<end>"
    encoder_tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 1)]
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=1, max_position_embeddings=32)).eval()
    row = torch.tensor([[1, *tokenizer("1+1=2")["input_ids"]]])
    with torch.no_grad():
        wanted = model(input_ids=row).logits[0, 0].item()
    reward = SequenceClassifierReward(model, tokenizer=encoder_tokenizer)
    assert reward(["1+1="], ["2"]) == pytest.approx([wanted], abs=1e-6)
    longer = reward(["x" * 50], ["abcdef"])
    kept = torch.tensor([[1, *tokenizer("x" * 25 + "abcdef")["input_ids"]]])
    with torch.no_grad():
        assert longer == pytest.approx([model(input_ids=kept).logits[0, 0].item()], abs=1e-6)


def test_padding_does_not_change_what_an_encoder_says_of_a_shorter_text(tokenizer):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=1))
    together = SequenceClassifierReward(model, tokenizer=tokenizer, batch_size=3)
    apart = SequenceClassifierReward(model, tokenizer=tokenizer, batch_size=1)
    assert together(PROMPTS, COMPLETIONS) == pytest.approx(apart(PROMPTS, COMPLETIONS), abs=1e-6)


def test_a_decoder_is_padded_with_its_own_token_and_the_tokenizer_is_left_alone(tokenizer):
    """A decoder reads the last token that is not its padding, whatever the tokenizer would pad with."""
    nameless = copy.deepcopy(tokenizer)
    nameless.pad_token = None
    for own in (tokenizer, nameless):
        before = own.pad_token_id
        model = qwen(pad_token_id=40)
        together = SequenceClassifierReward(model, tokenizer=own, batch_size=3)
        apart = SequenceClassifierReward(model, tokenizer=own, batch_size=1)
        assert before != 40
        assert together(PROMPTS, COMPLETIONS) == pytest.approx(apart(PROMPTS, COMPLETIONS), abs=1e-6)
        assert own.pad_token_id == before


def test_a_model_and_a_tokenizer_without_padding_or_end_are_refused(tokenizer):
    nameless = copy.deepcopy(tokenizer)
    nameless.pad_token = nameless.eos_token = None
    with pytest.raises(ModelError, match="has a padding or an end token: set pad_token"):
        SequenceClassifierReward(qwen(), tokenizer=nameless)


@pytest.mark.parametrize("option", ["batch_size", "max_length"])
@pytest.mark.parametrize("value", [0, -1, "2", 1.5, True])
def test_numbers_that_make_no_sense_are_refused_at_once(tokenizer, option, value):
    with pytest.raises(ConfigError, match=f"{option} is .* use a whole number from 1 on"):
        resolve_rewards({"name": qwen(), "tokenizer": tokenizer, option: value})


def test_a_text_that_is_too_long_keeps_its_end_and_is_counted_and_said_once(tokenizer, caplog):
    reward = SequenceClassifierReward(qwen(max_position_embeddings=8), tokenizer=tokenizer)
    cut, whole = reward(["x" * 50, ""], ["abcdefgh", "abcdefgh"])
    assert cut == pytest.approx(whole, abs=1e-6)
    assert reward.truncated == 1
    reward(["x" * 50] * 2, ["abcdefgh"] * 2)
    assert reward.truncated == 3
    assert caplog.text.count("longer than the 8 tokens") == 1


def test_a_smaller_limit_can_be_set(tokenizer):
    reward = SequenceClassifierReward(qwen(), tokenizer=tokenizer, max_length=3)
    assert reward(["xyz", ""], ["abc", "abc"]) == pytest.approx(reward(["", ""], ["abc", "abc"]), abs=1e-6)


def test_a_language_model_is_refused_before_anything_is_done_to_it(tokenizer):
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8)).train()
    with pytest.raises(
        ConfigError, match="Qwen3ForCausalLM is not a reward model: give an AutoModelForSequence"
    ) as caught:
        resolve_rewards({"name": model, "tokenizer": tokenizer})
    assert "\n" not in str(caught.value)
    assert model.training


def test_a_bare_model_object_needs_its_tokenizer():
    with pytest.raises(ConfigError, match="give its tokenizer as well"):
        resolve_rewards(qwen())


def test_a_saved_classifier_is_loaded_from_its_directory_and_scores_in_a_suite(tokenizer, tmp_path, group):
    directory = tmp_path / "taste-model"
    model = qwen(pad_token_id=0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (resolved,) = resolve_rewards({"name": str(directory), "weight": 2.0, "batch_size": 2})
    assert resolved.name == "taste-model"
    result = RewardSuite([resolved]).score([group("1+1=", [1, 1])], ["2", "3"], step=0, max_steps=1)
    wanted = logits_one_by_one(model, tokenizer, ["1+1=2", "1+1=3"])[:, 0]
    assert [one.score.total for one in result.groups[0].rollouts] == pytest.approx((2 * wanted).tolist(), abs=1e-5)


def test_a_saved_language_model_has_no_head_and_is_refused(tokenizer, tmp_path):
    directory = tmp_path / "language-model"
    Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    with pytest.raises(ConfigError, match=r"has no trained classification head \(score.weight is missing\)"):
        resolve_rewards(str(directory))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_classifier_is_not_run_whatever_is_typed(tokenizer, tmp_path, monkeypatch, file):
    directory = tmp_path / "classifier"
    qwen().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    kinds = ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer")
    content = json.loads((directory / file).read_text()) | {"auto_map": dict.fromkeys(kinds, "evil.Evil")}
    if file == "config.json":
        content["model_type"] = "evil"
    (directory / file).write_text(json.dumps(content))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    if file == "config.json":
        with pytest.raises(ModelError, match=r"the configuration of .* cannot be read"):
            Backbones().classifier(str(directory))
    else:
        resolve_rewards([str(directory)])
    assert not (tmp_path / "ran").exists()


def test_a_classifier_with_kernels_from_a_repository_is_refused(tokenizer, tmp_path):
    directory = tmp_path / "classifier"
    qwen().save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"attn_implementation": "someone/kernel"}))
    with pytest.raises(ModelError, match="asks for attention kernels from the repository someone/kernel"):
        Backbones().classifier(str(directory))


def test_a_parameter_that_a_reward_model_does_not_have_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"no parameter 'batchsize': it takes \['tokenizer', 'label', 'batch_size'"):
        resolve_rewards({"name": qwen(), "tokenizer": tokenizer, "batchsize": 2})


def test_chat_prompts_without_a_template_are_told_so(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    reward = SequenceClassifierReward(qwen(), tokenizer=plain)
    with pytest.raises(ModelError, match="no chat template"):
        reward([[{"role": "user", "content": "x"}]], [[{"role": "assistant", "content": "y"}]])


def save_judge(directory, tokenizer, *, seed, num_labels, template, shift):
    """Save a classifier whose tokenizer has a chat template of its own and numbers its words in its own way."""
    vocabulary = {word: (index + shift) % len(tokenizer) for word, index in tokenizer.get_vocab().items()}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizer._tokenizer.pre_tokenizer
    own = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=template
    )
    torch.manual_seed(seed)
    config = Qwen3Config(
        **{**SIZES, "hidden_size": 16 + 16 * seed}, num_key_value_heads=1, head_dim=8, num_labels=num_labels
    )
    config.pad_token_id = own.pad_token_id
    model = Qwen3ForSequenceClassification(config)
    model.save_pretrained(directory)
    own.save_pretrained(directory)
    return model, own


def test_several_classifiers_read_the_same_chat_each_in_its_own_words(tokenizer, tmp_path, group):
    templates = [
        "{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}<end>{% endfor %}",
        "{% for message in messages %}{{ message['content'] }}? {% endfor %}",
    ]
    written = [["user:1+1<end>assistant:2<end>", "user:1+1<end>assistant:three<end>"], ["1+1? 2? ", "1+1? three? "]]
    wanted = []
    for place, template in enumerate(templates):
        model, own = save_judge(
            tmp_path / f"judge-{place}",
            tokenizer,
            seed=place,
            num_labels=1 + 2 * place,
            template=template,
            shift=7 * place,
        )
        logits = logits_one_by_one(model, own, written[place])
        wanted.append((logits[:, 0] if place == 0 else logits.softmax(-1)[:, 2]).tolist())
    functions = resolve_rewards(
        [
            {"name": str(tmp_path / "judge-0"), "device": "cpu", "batch_size": 1},
            {"name": str(tmp_path / "judge-1"), "label": 2, "weight": 3.0},
        ]
    )
    chat = [{"role": "user", "content": "1+1"}]
    result = RewardSuite(functions).score([group(chat, [1, 5])], ["2", "three"], step=0, max_steps=1)
    for place, member in enumerate(result.groups[0].rollouts):
        assert member.score.rewards["judge-0"] == pytest.approx(wanted[0][place], abs=1e-5)
        assert member.score.rewards["judge-1"] == pytest.approx(wanted[1][place], abs=1e-5)
        assert member.score.total == pytest.approx(wanted[0][place] + 3.0 * wanted[1][place], abs=1e-5)
