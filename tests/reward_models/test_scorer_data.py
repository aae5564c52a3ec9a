"""Rows of scorers: reading, error messages, and the split into training and held-out rows."""

from __future__ import annotations

import json

import pytest

from grpo.config import GRPOConfig
from grpo.demos.clicks import click_rows
from grpo.demos.preferences import preference_pairs
from grpo.errors import ConfigError, DataError
from grpo.reward_models import hold_out, read_scorer_rows
from grpo.reward_models.data import split_rows

PAIR = {"prompt": "What is a bond?", "chosen": "A loan.", "rejected": "Magic."}
CHAT = [{"role": "user", "content": "What is a bond?"}]


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_clicks_are_read_alike_from_lines_of_json_from_csv_and_from_memory(tmp_path):
    wanted = [{"text": "Chefs praise bread", "label": 1}, {"text": 'The "best", of all', "label": 0}]
    table = tmp_path / "clicks.csv"
    table.write_text('text,label\nChefs praise bread,1\n"The ""best"", of all",0\n')
    assert read_scorer_rows("ctr", lines(tmp_path / "clicks.jsonl", wanted)) == wanted
    assert read_scorer_rows("ctr", table) == wanted
    assert (
        read_scorer_rows("ctr", [{"text": "Chefs praise bread", "label": True}, {**wanted[1], "label": 0.0}]) == wanted
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": 2}, r"clicks.jsonl:2: the label is 2: use 1 for clicked and 0 for not"),
        ({"text": "a", "label": "yes"}, r"the label is 'yes'"),
        ({"text": "a", "label": 0.5}, r"the label is 0.5"),
        ({"text": "a", "label": None}, r"the label is None"),
        ({"text": "a", "label": [1]}, r"the label is \[1\]"),
        ({"text": " ", "label": 1}, r"clicks.jsonl:2: the text is empty"),
        ({"text": 5, "label": 1}, r"the text is 5: use a text"),
        ({"headline": "a", "label": 1}, r"no column 'text', there are \['headline', 'label'\]"),
        ({"text": "a", "label": 1, "labels": 1}, r"unknown column 'labels', .*: did you mean 'label'"),
        ({"text": "a", "label": 1, "id": 7}, r"unknown column 'id', a row has 'text' and 'label': leave it out"),
        (["a", 1], r"clicks.jsonl:2: \['a', 1\] where an object with 'text' and 'label' is needed"),
    ],
)
def test_a_click_row_that_cannot_be_used_is_named_with_what_would_do(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as caught:
        read_scorer_rows("ctr", lines(tmp_path / "clicks.jsonl", [{"text": "b", "label": 0}, row]))
    assert "\n" not in str(caught.value)


def test_clicks_of_one_class_are_refused():
    with pytest.raises(DataError, match="one class only, all 2 labels are 1"):
        read_scorer_rows("ctr", [{"text": "a", "label": 1}, {"text": "b", "label": 1}])
    with pytest.raises(DataError, match="is empty"):
        read_scorer_rows("ctr", [])


def test_pairs_are_read_with_and_without_margins_and_as_messages():
    rows = [PAIR, {**PAIR, "margin": 2}, {**PAIR, "margin": None}]
    assert read_scorer_rows("pair", rows) == [PAIR, {**PAIR, "margin": 2.0}, PAIR]
    chat = {**PAIR, "prompt": CHAT, "rejected": [{"role": "assistant", "content": "Magic."}]}
    assert read_scorer_rows("pair", [chat]) == [chat]


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "price", "arguments": '{"of": "X"}'}}],
}
READ_CALL = {**CALL, "content": "", "tool_calls": [{"function": {"name": "price", "arguments": {"of": "X"}}}]}
PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a bond?"}]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({**PAIR, "prompt": [{"role": "user", "content": PARTS}]}, {**PAIR, "prompt": CHAT}),
        (
            {
                **PAIR,
                "prompt": CHAT,
                "chosen": [CALL],
                "rejected": {**CALL, "tool_calls": [{"function": {"name": "x"}}]},
            },
            {
                "prompt": CHAT,
                "chosen": [READ_CALL],
                "rejected": [{**READ_CALL, "tool_calls": [{"function": {"name": "x"}}]}],
            },
        ),
        (
            {**PAIR, "prompt": [*CHAT, CALL, {"role": "tool", "content": "7"}]},
            {**PAIR, "prompt": [*CHAT, READ_CALL, {"role": "tool", "content": "7"}]},
        ),
        (
            {
                "conversations": [{"from": "human", "value": "What is a bond?"}],
                "chosen": {"from": "gpt", "value": "A loan."},
                "rejected": {"from": "gpt", "value": "Magic."},
                "margin": 1,
            },
            {
                "prompt": CHAT,
                "chosen": [{"role": "assistant", "content": "A loan."}],
                "rejected": [{"role": "assistant", "content": "Magic."}],
                "margin": 1.0,
            },
        ),
        (
            {"messages": [*CHAT, {"role": "assistant", "content": "Well."}], "chosen": "A loan.", "rejected": "Magic."},
            {**PAIR, "prompt": CHAT},
        ),
        (
            {"instruction": "What is", "input": "a bond?", "chosen": "A", "rejected": "B", "output": "A"},
            {"prompt": "What is\n\na bond?", "chosen": "A", "rejected": "B"},
        ),
        (
            {"instruction": "What is a bond?", "system": "Be brief.", "chosen": "A", "rejected": "B"},
            {"prompt": [{"role": "system", "content": "Be brief."}, *CHAT], "chosen": "A", "rejected": "B"},
        ),
    ],
    ids=["parts", "calls", "call in the prompt", "ShareGPT", "messages", "Alpaca", "Alpaca with a system prompt"],
)
def test_pairs_may_have_the_shapes_of_other_data_sets(tmp_path, row, wanted):
    assert read_scorer_rows("pair", [row]) == [wanted]
    assert read_scorer_rows("pair", lines(tmp_path / "pairs.jsonl", [row])) == [wanted]


def test_a_pair_of_another_shape_may_have_no_further_columns():
    row = {"instruction": "What is a bond?", "chosen": "A", "rejected": "B"}
    with pytest.raises(DataError, match=r"unknown column 'id', a row has 'prompt', 'chosen', 'rejected' and 'margin'"):
        read_scorer_rows("pair", [{**row, "id": 1}])
    with pytest.raises(DataError, match=r"no column 'prompt', there are \['chosen', 'question', 'rejected'\]"):
        read_scorer_rows("pair", [{"question": "q", "chosen": "A", "rejected": "B"}])
    with pytest.raises(DataError, match=r"row 0, message 0: the message has an image"):
        image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        read_scorer_rows("pair", [{"messages": [image], "chosen": "A", "rejected": "B"}])


def test_answers_that_differ_in_their_calls_only_are_no_equal_answers():
    other = {**CALL, "tool_calls": [{"function": {"name": "price", "arguments": '{"of": "Y"}'}}]}
    assert len(read_scorer_rows("pair", [{"prompt": CHAT, "chosen": [CALL], "rejected": [other]}])) == 1
    with pytest.raises(DataError, match="chosen and rejected are equal"):
        read_scorer_rows("pair", [{"prompt": CHAT, "chosen": [CALL], "rejected": CALL}])


def test_margins_out_of_a_table_are_numbers(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,chosen,rejected,margin\nq,a,b,0.5\nq,c,d,\n")
    assert [row.get("margin") for row in read_scorer_rows("pair", table)] == [0.5, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": " A loan. "}, r"row 0: chosen and rejected are equal"),
        ({"chosen": ""}, r"the chosen is empty"),
        ({"prompt": " "}, r"the prompt is empty"),
        ({"prompt": []}, r"row 0: the prompt is empty"),
        ({"prompt": None}, r"row 0: the prompt is null: use text or a list"),
        ({"prompt": CHAT, "chosen": []}, r"row 0: the chosen is empty"),
        ({"prompt": CHAT, "chosen": {"role": "bot", "content": "x"}}, r"row 0, chosen, message 0: role 'bot': use one"),
        (
            {"prompt": CHAT, "chosen": [{"role": "assistant", "content": None}]},
            r"chosen, message 0: the content is null",
        ),
        ({"prompt": CHAT, "rejected": 5}, r"the rejected is 5: use a text"),
        ({"prompt": [{"role": "system", "content": "Be brief."}]}, r"the prompt has a system message only"),
        ({"chosen": [{"role": "assistant", "content": "x"}]}, r"the chosen is .*: use a text"),
        ({"margin": -1}, r"the margin is -1: use a number from 0 on"),
        ({"margin": "much"}, r"the margin is 'much'"),
        ({"margin": 10**400}, r"the margin is 10000"),
        ({"margin": float("nan")}, r"the margin is nan"),
        ({"margins": 1}, r"unknown column 'margins', .*: did you mean 'margin'"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named_with_what_would_do(change, message):
    with pytest.raises(DataError, match=message):
        read_scorer_rows("pair", [{**PAIR, **change}])


def test_a_pair_without_a_side_is_refused_with_the_columns_that_there_are():
    with pytest.raises(DataError, match=r"no column 'rejected', there are \['chosen', 'prompt'\]"):
        read_scorer_rows("pair", [{"prompt": "q", "chosen": "a"}])
    with pytest.raises(DataError, match="is empty"):
        read_scorer_rows("pair", [])


def test_no_text_is_on_both_sides_of_a_split_and_nothing_is_lost():
    rows = click_rows(1000)
    train, held_out = hold_out("ctr", rows, 0.2)
    assert len(train) + len(held_out) == 1000
    assert not {row["text"] for row in train} & {row["text"] for row in held_out}
    assert 200 <= len(held_out) < 260
    assert (train, held_out) == hold_out("ctr", rows, 0.2)
    assert held_out != hold_out("ctr", rows, 0.2, seed=1)[1]
    assert 40 <= len(hold_out("ctr", rows, 40)[1]) < 80


def test_pairs_are_split_by_prompt_unless_there_is_only_one():
    train, held_out = hold_out("pair", preference_pairs(200), 0.25)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    rows = [{**PAIR, "rejected": f"Magic {number}."} for number in range(10)]
    train, held_out = hold_out("pair", rows, 3)
    assert (len(train), len(held_out)) == (7, 3)


def test_a_split_that_leaves_nothing_to_train_on_or_one_class_is_refused():
    rows = [{"text": str(number), "label": int(number == 0)} for number in range(10)]
    with pytest.raises(DataError, match=r"10 rows cannot be held out of 10 .*scorer_holdout"):
        hold_out("ctr", rows, 10)
    with pytest.raises(DataError, match="one class only"):
        hold_out("ctr", rows, 2)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("A loan.", [{"role": "assistant", "content": " A loan. "}]),
        ([{"role": "assistant", "content": "A loan."}], [{"content": "A loan.\n", "role": "assistant"}]),
    ],
)
def test_answers_that_are_equal_once_written_are_refused(chosen, rejected):
    with pytest.raises(DataError, match="chosen and rejected are equal"):
        read_scorer_rows("pair", [{"prompt": CHAT, "chosen": chosen, "rejected": rejected}])


def test_pairs_that_are_held_out_are_not_trained_on(caplog):
    rows = preference_pairs(20)
    train, held_out = split_rows("pair", rows, rows[15:], 0.2)
    assert (train, held_out) == (rows[:15], rows[15:])
    assert "5 of 20 training rows are held-out rows as well" in caplog.text
    with pytest.raises(DataError, match="all 5 training rows are held-out rows as well"):
        split_rows("pair", rows[:5], rows, 0.2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("max_length", 0),
        ("tokens_per_micro_batch", 0),
        ("lora_rank", -1),
        ("patience", -1),
        ("learning_rate", 0.0),
        ("learning_rate", 1.0),
        ("learning_rate", float("nan")),
        ("head_dropout", 1.0),
        ("lora_alpha", -1.0),
        ("margin", -1.0),
        ("holdout", 0),
    ],
)
def test_an_option_out_of_its_range_is_named_with_its_value(option, value):
    with pytest.raises(ConfigError, match=rf"scorer_{option}\b.*{value}"):
        GRPOConfig(**{f"scorer_{option}": value})


def test_a_holdout_is_a_share_or_a_whole_number_of_rows():
    assert [GRPOConfig(scorer_holdout=value).scorer.scorer_holdout for value in (0.5, 1, 40)] == [0.5, 1, 40]
    with pytest.raises(ConfigError, match=r"scorer_holdout.* a share below 1, or a whole number of rows"):
        GRPOConfig(scorer_holdout=1.5)
