"""Tools and variables of the chat template reach it, from options and from columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizer_kinds import make_tokenizer
from transformers import PreTrainedTokenizerFast

from grpo.environments.turn_tokens import TurnTokens
from grpo.errors import DataError
from grpo.tasks.chat import render
from grpo.tasks.rows import read_rows
from grpo.types import Prompt

ADD = {"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number"}}}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"b": {"type": "number"}}}}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = make_tokenizer("qwen")
    made.chat_template = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}" + made.chat_template
    return made


def prompts_of(tokenizer: Any, rows: list[Any], **options: Any) -> list[Prompt]:
    return render(read_rows(rows), tokenizer, **options).prompts


def test_an_option_reaches_the_template_of_every_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ["2 + 3?", [{"role": "user", "content": "3 + 4?"}]]
    for prompt in prompts_of(tokenizer, rows, template_options={"enable_thinking": False}, tools=[ADD]):
        assert prompt.text.endswith("assistant\n<think>\n\n</think>\n\n")
        assert json.loads(prompt.text.split("\n")[0].removeprefix("TOOLS ")) == [ADD]
        assert tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]) == prompt.token_ids


@pytest.mark.parametrize("as_text", [False, True])
def test_a_column_comes_before_the_option_and_the_order_of_rows_stays(
    tokenizer: PreTrainedTokenizerFast, as_text: bool
) -> None:
    def written(value: Any) -> Any:
        return json.dumps(value) if as_text else value

    rows = [
        {"prompt": "a", "chat_template_kwargs": written({"enable_thinking": True})},
        {"prompt": "b", "chat_template_kwargs": None, "tools": written([OTHER])},
        {"prompt": "c", "chat_template_kwargs": written({"enable_thinking": True})},
    ]
    first, second, third = prompts_of(tokenizer, rows, template_options={"enable_thinking": False}, tools=[ADD])
    assert [prompt.raw for prompt in (first, second, third)] == ["a", "b", "c"]
    assert "<think>" not in first.text + third.text
    assert second.text.endswith("</think>\n\n")
    assert '"other"' in second.text and '"add"' not in second.text
    assert '"add"' in first.text and "user\nc<|im_end|>" in third.text


def test_tools_out_of_a_table_lose_the_parameters_of_other_tools(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"prompt": "a", "tools": [ADD]}, {"prompt": "b", "tools": [OTHER]}]).to_parquet(path)
    first, second = render(read_rows(path), tokenizer).prompts
    assert json.loads(first.text.split("\n")[0].removeprefix("TOOLS ")) == [ADD]
    assert json.loads(second.text.split("\n")[0].removeprefix("TOOLS ")) == [OTHER]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tools": 5}, r"row 0, column 'tools': a number: give a list of objects"),
        ({"tools": ["add"]}, r"row 0, column 'tools': a text: give an object that describes the tool"),
        ({"tools": "add"}, r"row 0, column 'tools': the text is not JSON"),
        ({"chat_template_kwargs": [1]}, r"column 'chat_template_kwargs': a list: give an object"),
        (
            {"chat_template_kwargs": {"tokenize": True}},
            r"row 0, column 'chat_template_kwargs': 'tokenize' is set by grpo",
        ),
    ],
)
def test_columns_of_another_form_are_refused(
    tokenizer: PreTrainedTokenizerFast, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prompts_of(tokenizer, [{"prompt": "a", **columns}])


def test_an_option_that_the_package_sets_itself_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^chat_template_kwargs: 'add_generation_prompt' is set by grpo itself"):
        prompts_of(tokenizer, ["a"], template_options={"add_generation_prompt": False})


def test_a_variable_that_has_no_effect_is_named(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    prompts_of(tokenizer, ["a"], template_options={"enable_thinkin": False, "enable_thinking": False})
    assert "enable_thinkin has no effect: the chat template does not mention it" in caplog.text
    prompts_of(tokenizer, ["a"], chat=False, tools=[ADD])
    assert "tools has no effect: prompts are plain text" in caplog.text


def test_the_turns_of_an_episode_are_rendered_with_the_prompt_s_variables(tokenizer: PreTrainedTokenizerFast) -> None:
    (prompt,) = prompts_of(tokenizer, ["a"], template_options={"enable_thinking": False})
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    messages = [{"role": "user", "content": "Again."}]
    turns = TurnTokens(tokenizer)
    without = tokenizer.decode(turns.between(end, messages))
    between = tokenizer.decode(turns.between(end, messages, template_options=prompt.template_options))
    assert between == without + "<think>\n\n</think>\n\n"
