"""Configuration: what is read, what wins, and that every error says where it is and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import yaml_text
from unmask.config.load import dump_config, json_schema, load_config, starter_yaml
from unmask.config.settings import RunConfig, Settings
from unmask.errors import ConfigError
from unmask.model.presets import check_trainable
from unmask.progress import Progress

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes `run.yaml` and returns its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def error_of(path: Path | None, *overrides: str, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, {key.replace("__", "."): value for key, value in flags.items()})
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


# ---------------------------------------------------------------- what is read, and what wins


def test_later_layers_win(write: Write) -> None:
    path = write("train:\n  max_steps: 1\n  seed: 1\n  keep_last: 1\nmasking:\n  rate: 0.3\n")
    config = load_config(
        path, ["train.seed=2", "train.keep_last=2"], {"train.keep_last": 3, "masking.rate": None}
    )
    assert (config.train.max_steps, config.train.seed, config.train.keep_last) == (1, 2, 3)
    assert config.masking.rate == 0.3
    assert config.data == RunConfig().data


def test_the_last_of_several_sets_wins() -> None:
    assert load_config(None, ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing but a comment\n", "---\n", "null\n", "train:\ndata:\n"]
)
def test_a_file_that_says_nothing_is_the_defaults(write: Write, text: str) -> None:
    assert load_config(write(text)) == RunConfig()


def test_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbftrain:\r\n  seed: 3\r\n")
    assert load_config(path).train.seed == 3


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.optimizer.learning_rate", "5e-5", 5e-5),
        ("train.optimizer.learning_rate", "1E-4", 1e-4),
        ("train.max_steps", "1e3", 1000),
        ("train.max_steps", "10_000", 10_000),
        ("train.seed", "010", 10),  # octal to YAML 1.1
        ("train.gradient_checkpointing", "on", True),
        ("train.gradient_checkpointing", "no", False),
        ("train.gradient_checkpointing", "true", True),
        ("data.split", "no", "no"),  # false to YAML 1.1
        ("data.text_field", "2024-01-01", "2024-01-01"),  # a date to YAML 1.1
        ("model.name", "'123'", "123"),
        ("model.name", "org/model@v1.0", "org/model@v1.0"),
        ("train.max_steps", "null", None),
        ("train.max_steps", "", None),
        ("data.inputs", "notes.txt", ["notes.txt"]),
        ("data.inputs", "[a.txt, b.txt]", ["a.txt", "b.txt"]),
    ],
)
def test_values_are_what_they_look_like(write: Write, key: str, text: str, value: Any) -> None:
    *sections, name = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    path = write("\n".join([*lines, f"{'  ' * len(sections)}{name}: {text}\n"]))
    for config in (load_config(path), load_config(None, [f"{key}={text}"])):
        found: Any = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)


def test_a_whole_section_can_be_set() -> None:
    config = load_config(None, ["train.optimizer={name: muon, weight_decay: 0}"])
    assert (config.train.optimizer.name, config.train.optimizer.weight_decay) == ("muon", 0.0)


# ---------------------------------------------------------------- keys that do not exist


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  text_field: body\n",
            "run.yaml:2: unknown key 'train.text_field' (did you mean 'data.text_field'?)",
        ),
        (
            "train:\n  max_step: 3\n",
            "run.yaml:2: unknown key 'train.max_step' (did you mean 'train.max_steps'?)",
        ),
        ("\n\ntrian:\n  seed: 3\n", "run.yaml:3: unknown key 'trian' (did you mean 'train'?)"),
        ("max_steps: 3\n", "run.yaml:1: unknown key 'max_steps' (did you mean 'train.max_steps'?)"),
        (
            "train:\n  lr: 3\n",
            "run.yaml:2: unknown key 'train.lr' (did you mean 'train.optimizer.learning_rate'?)",
        ),
        (
            "mlm_probability: 0.2\n",
            "run.yaml:1: unknown key 'mlm_probability' (did you mean 'masking.rate'?)",
        ),
        (
            "train: {weight_decoy: 1}\n",
            "run.yaml:1: unknown key 'train.weight_decoy' (did you mean 'train.optimizer.",
        ),
        ("zzz: 1\n", "run.yaml:1: unknown key 'zzz'; the keys at the top are model, data, masking, train"),
        (
            "model:\n  zzz: 1\n",
            "run.yaml:2: unknown key 'model.zzz'; the keys of 'model' are name, preset, tokenizer",
        ),
        ("train.seed: 1\n", "run.yaml:1: write 'seed:' in the section 'train:' instead of 'train.seed:'"),
        ("data:\n  <<: {split: x}\n", "run.yaml:2: unknown key 'data.<<'"),
    ],
)
def test_an_unknown_key_names_line_and_nearest(write: Write, text: str, message: str) -> None:
    path = write(text)
    assert error_of(path).startswith(message.replace("run.yaml", str(path)))


def test_a_name_that_several_sections_have_names_all() -> None:
    message = error_of(None, "name=x")
    assert "'model.name' or 'train.optimizer.name' or 'train.schedule.name'" in message


def test_unknown_keys_of_set_and_flags() -> None:
    assert error_of(None, "train.max_step=3") == (
        "--set train.max_step: unknown key 'train.max_step' (did you mean 'train.max_steps'?)"
    )
    assert error_of(None, "train={max_step: 3}").startswith(
        "--set train: unknown key 'train.max_step' (did you mean"
    )
    assert error_of(None, train__sed=3) == "--sed: unknown key 'train.sed' (did you mean 'train.seed'?)"


# ---------------------------------------------------------------- keys of earlier versions


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


OLD_FILE = """\
data:
  general_heldout: [general.txt]
masking:
  rate_start: 0.4
  rate_schedule: linear
  span_p: 0.2
  term_weight: 5.0
train:
  batch_ramp: 0.0
  keep_best: false
  max_bad_steps: 5
  init_head_steps: 0
  warm_new_rows: 7
  schedule: {decay_share: 0.4}
"""


def test_a_file_of_an_earlier_version_is_understood_with_two_warnings(write: Write) -> None:
    path, log = write(OLD_FILE), Log()
    config = load_config(path, progress=log)
    assert config.data.forgetting_eval == ["general.txt"]
    assert config.masking.initial_rate == 0.4
    assert config.train.export_best is False
    assert (config.train.head_warmup_steps, config.train.new_embeddings_steps) == (0, 7)
    renamed, removed = log.lines
    assert f"{path}:13: train.warm_new_rows is now train.new_embeddings_steps" in renamed
    assert renamed.count(" is now ") == 5
    assert f"{path}:9: train.batch_ramp (every step has train.batch_tokens tokens)" in removed
    assert removed.count(f"{path}:") == 6


def test_an_old_key_of_set_is_understood() -> None:
    log = Log()
    assert load_config(None, ["train.init_head_steps=3"], progress=log).train.head_warmup_steps == 3
    assert log.lines == [
        "renamed settings: --set train.init_head_steps: train.init_head_steps is now train.head_warmup_steps"
    ]


def test_old_and_new_key_together_and_values_no_longer_possible_are_refused(write: Write) -> None:
    path = write("train:\n  keep_best: true\n  export_best: false\n")
    assert error_of(path) == f"{path}:3: 'train.export_best' is given twice, first at {path}:2"
    assert error_of(None, "train.keep_best=7").startswith("--set train.keep_best: train.export_best must be")
    path = write("masking:\n  span_p: 0.5\n")
    assert error_of(path) == (
        f"{path}:2: masking.span_p no longer exists (a span always ends after each word with probability 0.2), "
        f"so 0.5 is not possible; remove it"
    )
    assert "so 0.3 is not possible" in error_of(None, "train.batch_ramp=0.3")


# ---------------------------------------------------------------- values that do not fit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  max_steps: ten\n",
            "2: train.max_steps must be a whole number, at least 1, or null, not 'ten'",
        ),
        ("train:\n  max_steps: 0\n", "2: train.max_steps must be a whole number, at least 1, or null, not 0"),
        (
            "train:\n  max_steps: 2.5\n",
            "2: train.max_steps must be a whole number, at least 1, or null, not 2.5",
        ),
        (
            "train:\n  max_steps: true\n",
            "2: train.max_steps must be a whole number, at least 1, or null, not true",
        ),
        ("train:\n  minutes: 1:30\n", "2: train.minutes must be a number, more than 0, or null, not '1:30'"),
        ("train:\n  minutes: .inf\n", "2: train.minutes must be a number, more than 0, or null, not '.inf'"),
        ("train:\n  minutes: inf\n", "2: train.minutes must be a number, more than 0, or null, not 'inf'"),
        ("train:\n  epochs: nan\n", "2: train.epochs must be a number, more than 0, or null, not 'nan'"),
        (
            "\nmasking:\n  rate: 15%\n",
            "3: masking.rate must be a number, more than 0 and at most 1, not '15%'",
        ),
        ("train:\n  device: gpu\n", "2: train.device must be one of auto, cpu, cuda, mps, not 'gpu'"),
        ("train:\n  seed: null\n", "2: train.seed must be a whole number, at least 0, not null"),
        ("model:\n  offline: maybe\n", "2: model.offline must be true or false, not 'maybe'"),
        (
            "model:\n  name: 5\n",
            "2: model.name must be text or null, not 5; put it in quotes if it is meant as text",
        ),
        ("data:\n  text_field: true\n", "2: data.text_field must be text, not true; put it in quotes"),
        ("data:\n  inputs: [a, 5]\n", "2: data.inputs must be a list of texts, not ['a', 5]"),
        ("data:\n  split: [a]\n", "2: data.split must be text, not ['a']"),
        ("train:\n  seed: {a: 1}\n", "2: train.seed must be a whole number, at least 0, not {'a': 1}"),
        (
            "train:\n  optimizer: adamw\n",
            "2: 'train.optimizer' is a section with the keys name, learning_rate",
        ),
        ("train: 5\n", "1: 'train' is a section with the keys objective, detour"),
        ("train: [1]\n", "1: 'train' is a section with the keys objective, detour"),
    ],
)
def test_a_wrong_value_names_line_and_what_is_allowed(write: Write, text: str, message: str) -> None:
    path = write(text)
    assert error_of(path).startswith(f"{path}:{message}")


def test_a_word_for_a_section_with_a_name_is_understood(write: Write) -> None:
    assert error_of(write("train:\n  optimizer: adamw\n")).endswith("(did you mean 'train.optimizer.name'?)")


def test_wrong_values_of_set_and_flags() -> None:
    assert error_of(None, "train.seed=x") == "--set train.seed: must be a whole number, at least 0, not 'x'"
    assert (
        error_of(None, "train={seed: x}")
        == "--set train: train.seed must be a whole number, at least 0, not 'x'"
    )
    assert error_of(None, train__max_steps=0) == "--max-steps: must be a whole number, at least 1, not 0"
    assert error_of(None, masking__rate=2.0).startswith("--mask-rate: must be a number")
    assert error_of(None, train__minutes=float("inf")) == "--minutes: must be a number, more than 0, not inf"
    assert error_of(None, "train=3").startswith("--set train: 'train' is a section")


def test_the_fault_is_where_the_value_that_counts_was_given(write: Write) -> None:
    path = write("train:\n  max_steps: ten\n  seed: -1\n")
    assert load_config(path, ["train.max_steps=10", "train.seed=0"]).train.max_steps == 10
    assert error_of(path, "train.max_steps=0", train__seed=0).startswith("--set train.max_steps: ")
    assert error_of(path, "train.seed=0").startswith(f"{path}:2: ")


def test_a_rule_over_two_settings_names_the_one_set_last(write: Write) -> None:
    path = write("masking:\n  rate: 0.2\n  mask_share: 0.8\n  random_share: 0.5\n")
    assert error_of(path) == f"{path}:4: mask_share + random_share must be at most 1, not 0.8 + 0.5 = 1.3"
    assert error_of(path, "masking.mask_share=0.9").startswith(
        "--set masking.mask_share: mask_share + random_share"
    )


def test_a_long_value_is_cut() -> None:
    assert len(error_of(None, f"train.seed={'x' * 10_000}")) < 200
    assert len(error_of(None, f"train.seed=[{'x, ' * 10_000}]")) < 200


# ---------------------------------------------------------------- text that is no configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", ":1: expected the sections model, data, masking, train as 'name:' lines, not a list"),
        (
            "# text\nhello\n",
            ":2: expected the sections model, data, masking, train as 'name:' lines, not 'hello'",
        ),
        ("train:\n\tseed: 1\n", ":2: a tab; YAML takes only spaces"),
        ("train:\n  seed:\t1\n  a\tb\n", ":2: a tab; YAML takes only spaces"),
        (
            "train:\n  seed: 1\n  keep_last: 1\n  seed: 2\n",
            ":4: 'train.seed' is given twice, first at {path}:2",
        ),
        ("train:\n  seed: 1\ndata:\ntrain:\n", ":4: 'train' is given twice, first at {path}:1"),
        ("a: b: c\n", ":1: not valid YAML: mapping values are not allowed here"),
        ("data:\n  inputs: *.txt\n", ":2: not valid YAML: "),
        ("data:\n  inputs: [a\n", ":3: not valid YAML: "),
        ("train:\n---\ntrain:\n", ":2: not valid YAML: expected a single document"),
        (
            "data:\n  inputs: !!python/object/apply:os.system [ls]\n",
            ":2: not valid YAML: could not determine",
        ),
        ("train:\n  seed: !!int ten\n", ":2: the value is not of the type 'int' that its tag names"),
        ("data:\n  inputs: &a [*a]\n", ":2: not valid YAML: found unconstructable recursive node"),
        ("? [a]\n: 1\n", ":1: expected one of the keys model, data, masking, train, not a list"),
        ("train:\n  seed: \x07\n", ":2: a control character (U+0007); remove it"),
        ("[" * 600, ": nested too deeply to be a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_names_the_line(write: Write, text: str, message: str) -> None:
    path = write(text)
    assert error_of(path).startswith(f"{path}{message.format(path=path)}")


def test_a_section_that_holds_itself_ends(write: Write) -> None:
    assert "is a section" in error_of(write("train: &a\n  optimizer: [*a]\n"))
    assert "unknown key" in error_of(write("train: &a\n  optimizer: *a\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent, binary = tmp_path / "absent.yaml", tmp_path / "latin.yaml"
    binary.write_bytes(b"data:\n  split: caf\xe9\n")
    assert error_of(absent) == f"{absent}: no such file ('unmask init {absent}' writes one to start from)"
    assert error_of(binary) == f"{binary}:2: expected UTF-8 text, found the byte 0xe9"
    assert error_of(tmp_path).startswith(f"{tmp_path}: cannot be read as a configuration file")


@pytest.mark.parametrize("override", ["train.seed", "=3", "", "  = 3"])
def test_a_set_without_key_or_value_shows_an_example(override: str) -> None:
    assert error_of(None, override).endswith("expected key=value, for example --set train.max_steps=1000")


def test_a_set_that_is_no_yaml_names_the_key() -> None:
    assert error_of(None, "data.inputs=*.txt").startswith("--set data.inputs: not valid YAML: ")
    assert error_of(None, "train.seed=# 3").startswith("--set train.seed: expected a value after '='")


# ---------------------------------------------------------------- files that are written


def leaves(settings: Settings, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Settings) else {prefix + name: value}
    return found


def test_the_starter_file_is_the_defaults(write: Write) -> None:
    assert load_config(write(starter_yaml())) == RunConfig()


def test_the_starter_file_holds_every_key_with_a_comment() -> None:
    lines = starter_yaml().splitlines()
    keys = [key.split(".")[-1] for key in leaves(RunConfig())]
    written = [
        line.split(":")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")
    ]
    assert sorted(written) == sorted([*keys, "model", "data", "masking", "train", "optimizer", "schedule"])
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            assert lines[number - 1].lstrip().startswith("# "), f"{line!r} has no comment"
    assert max(map(len, lines)) <= 110


def test_a_value_changed_in_the_starter_file_is_read(write: Write) -> None:
    text = starter_yaml()
    assert text.count("  max_steps: null\n") == 1
    assert load_config(write(text.replace("  max_steps: null\n", "  max_steps: 7\n"))).train.max_steps == 7


def test_every_setting_is_described() -> None:
    schema = json_schema()
    for definition in [*schema["$defs"].values(), schema]:
        assert definition["description"]
        assert definition["additionalProperties"] is False
    parts = {"ModelSettings", "DataSettings", "MaskingSettings", "TrainSettings"}
    assert parts <= set(schema["$defs"])
    for name in parts | {"OptimizerSettings", "ScheduleSettings"}:
        for key, about in schema["$defs"][name]["properties"].items():
            assert about.get("description") or "$ref" in about, f"{name}.{key} has no docstring"


def test_a_dumped_configuration_loads_back(write: Write) -> None:
    config = load_config(
        None,
        [
            "train.optimizer.learning_rate=5e-5",
            "data.inputs=['a b.txt', 'C:\\x', '*', 'no', '5e-5', '010', 'é🎉']",
        ],
        {"model.name": "null", "data.split": "08", "train.minutes": 0.1},
    )
    assert load_config(write(dump_config(config))) == config


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]), max_size=12))
def test_every_text_comes_back_from_yaml(text: str) -> None:
    node = yaml_text.compose(yaml_text.dump([text]), "here")
    assert node is not None
    assert yaml_text.construct(node, "here") == [text]


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
def test_every_number_comes_back_from_yaml(value: object) -> None:
    node = yaml_text.compose(yaml_text.dump([value]), "here")
    assert node is not None
    (found,) = yaml_text.construct(node, "here")
    assert found == value
    assert type(found) is type(value)


# ---------------------------------------------------------------- what can be trained


def trainable(**flags: Any) -> RunConfig:
    return load_config(None, (), {key.replace("__", "."): value for key, value in flags.items()})


def test_one_model_and_some_text_can_be_trained() -> None:
    check_trainable(trainable(model__name="bert-base-uncased", data__inputs=["a.txt"]))
    check_trainable(trainable(model__preset="bert-tiny", data__inputs=["a.txt"]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, r"no model: .*--model.*--preset.*bert-tiny, "),
        ({"model__name": "a", "model__preset": "bert-tiny"}, r"two models: .*'a'.*'bert-tiny'"),
        (
            {"model__preset": "bert-tinny"},
            r"unknown preset 'bert-tinny' \(did you mean 'bert-tiny'\?\); the presets",
        ),
        ({"model__name": "a"}, r"no text to train on"),
        ({"data__replay_share": 0.2}, r"--replay-share is a share of general text; give it with --replay"),
    ],
)
def test_what_cannot_be_trained_says_why(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_trainable(trainable(**flags))
