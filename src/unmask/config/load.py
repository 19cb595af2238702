"""The configuration of a run: the parts' own settings, from a YAML file, ``--set`` and flags.

Later layers win: defaults, then the file, then ``--set a.b=value``, then flags. Every error is a
:class:`~unmask.errors.ConfigError` that names the file and line (or the ``--set``, or the flag), what
is wrong, what is allowed, and the nearest valid key.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from unmask.config import yaml_text
from unmask.config.keys import Keys, choices, expected, starter_lines, takes
from unmask.config.old_keys import REMOVED, RENAMED, impossible
from unmask.config.options import OPTION_OF, SYNONYMS, flag
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.progress import Progress

_KEYS = Keys(RunConfig, SYNONYMS)

_STARTER_HEADER = """\
# The settings of a run, all at their defaults; keep the lines that you change.
#     unmask train TEXT... --model bert-base-uncased -c run.yaml -o runs/mine
# Flags win over --set a.b=value, which wins over this file. null means: not set.
"""


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    keywords: bool = False,
    progress: Progress = Progress(),
) -> RunConfig:
    """Return the configuration of a run, resolved from all its layers.

    Args:
        path: a YAML file as :func:`starter_yaml` writes it, or ``None`` for defaults alone.
        overrides: ``"train.max_steps=100"`` and the like; the value is YAML.
        flags: dotted key to value; ``None`` means that the flag was not given.
        keywords: whether errors name keyword arguments of the Python API instead of flags.
        progress: gets a warning about keys of earlier versions.

    Raises:
        ConfigError: a key that does not exist, a value out of its range, or a file that is not YAML.
    """
    layers = _Layers()
    if path is not None:
        _put_file(layers, Path(path))
    for override in overrides:
        _put_override(layers, override)
    for key, value in (flags or {}).items():
        if value is not None:
            origin = _keyword_origin(key) if keywords else _flag_origin(key)
            layers.put(key, value, origin)
    for warning, keys in (
        ("renamed settings", layers.renamed),
        ("settings that no longer exist", layers.removed),
    ):
        if keys:
            progress.log(f"{warning}: {'; '.join(keys)}")
    config = layers.resolve()
    # The settings of a whole run may be given as flags, with the default.
    default = type(config.data).model_fields["replay_share"].default
    if (flags or {}).get("data.replay_share", default) not in (None, default) and not config.data.replay:
        share, text = ("replay_share", "replay") if keywords else ("--replay-share", "--replay")
        raise ConfigError(f"{share} is a share of general text; give it with {text}")
    return config


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration file, for editors."""
    schema = RunConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "unmask run"}


def dump_config(config: RunConfig) -> str:
    """Return every setting as YAML, as :func:`load_config` reads it back."""
    return yaml_text.dump(config.model_dump())


def starter_yaml() -> str:
    """Return a complete commented configuration file that holds the defaults."""
    return _STARTER_HEADER + "\n".join(starter_lines(RunConfig)) + "\n"


@dataclass(frozen=True)
class _Origin:
    """Where a value came from.

    Args:
        where: ``run.yaml:3``, ``--set train.seed`` or ``--seed``.
        key: the dotted key, if ``where`` names it already.
        null: whether ``null`` can be written there.
    """

    where: str
    key: str | None = None
    null: bool = True


def _flag_origin(key: str) -> _Origin:
    return _Origin(flag(key), key, null=False)


def _keyword_origin(key: str) -> _Origin:
    """Return the keyword argument of a setting, or its place in ``settings={...}``."""
    option = OPTION_OF.get(key)
    return _Origin(option, key, null=False) if option else _Origin(f"settings['{key}']", key)


@dataclass(frozen=True)
class _Source:
    """A text with YAML in it: a file, or one ``--set``, whose lines say nothing and whose key is known."""

    name: str
    key: str | None = None

    def at(self, node: yaml.Node) -> _Origin:
        return _Origin(self.name if self.key else f"{self.name}:{node.start_mark.line + 1}", self.key)


@dataclass
class _Layers:
    """Values by dotted key in the order in which they were put, where each came from, and warnings about old keys."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, _Origin] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: _Origin) -> None:
        """Put a value above those that are there."""
        if key in REMOVED:
            if problem := impossible(key, value):
                raise ConfigError(f"{origin.where}: {problem}; remove it")
            self.removed.append(f"{origin.where}: {key} ({REMOVED[key][1]})")
            return
        if key in RENAMED:
            self.renamed.append(f"{origin.where}: {key} is now {RENAMED[key]}")
            key = RENAMED[key]
        info = _known(key, origin)
        # bool is an int to Python, so that `max_steps: true` would pass as 1 step.
        if isinstance(value, bool) and not takes(info, bool):
            raise _refusal(key, value, origin)
        if isinstance(value, str) and takes(info, list):
            value = [value]
        self.values.pop(key, None)  # so that the newest value is the last
        self.values[key], self.origins[key] = value, origin

    def resolve(self) -> RunConfig:
        """Return the configuration, or raise the first error in it."""
        nested: dict[str, Any] = {}
        for key, value in self.values.items():
            *sections, name = key.split(".")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value
        try:
            config = RunConfig.model_validate(nested)
        except ValidationError as error:
            raise self._translate(error) from None
        self._check_finite(config)
        return config

    def _translate(self, error: ValidationError) -> ConfigError:
        first = error.errors(include_url=False)[0]
        path = [str(part) for part in first["loc"]]
        for length in range(len(path), 0, -1):
            key = ".".join(path[:length])
            if key in self.values:
                return _refusal(key, self.values[key], self.origins[key])
        # A rule over several settings: it names them, and the one that was set last is where to look.
        message = first["msg"].removeprefix("Value error, ")
        inside = [key for key in self.values if path and key.startswith(".".join(path) + ".")]
        named = [key for key in self.values if re.search(rf"\b{re.escape(key)}\b", message)]
        named = named or [key for key in inside if key.rpartition(".")[2] in message]
        if not named:
            return ConfigError(f"{'.'.join(path)}: {message}" if path else message)
        key = named[-1]
        origin = self.origins[key]
        if origin.key != key:
            return ConfigError(f"{origin.where}: {message}")
        rule = re.sub(rf"^({re.escape(key)}|{key.rpartition('.')[2]}) (?=must )", "", message)
        return ConfigError(message if rule == message and key in message else f"{origin.where}: {rule}")

    def _check_finite(self, config: RunConfig) -> None:
        """Refuse ``inf`` and ``nan``, which arrive as words and pass every range that has no upper end."""
        for key, origin in self.origins.items():
            value = reduce(getattr, key.split("."), config)
            if isinstance(value, float) and not math.isfinite(value):
                raise _refusal(key, self.values[key], origin)


def _known(key: str, origin: _Origin) -> FieldInfo:
    """Return what is known of a key, or raise that there is none such."""
    info = _KEYS.leaves.get(key)
    if info is None:
        raise ConfigError(f"{origin.where}: {_KEYS.unknown(key)}")
    return info


def _put_file(layers: _Layers, path: Path) -> None:
    """Put what the YAML file at ``path`` says."""
    root = yaml_text.compose(yaml_text.read_text(path), str(path))
    if root is None or yaml_text.is_null(root):  # an empty file, or nothing but comments: the defaults
        return
    source = _Source(str(path))
    if not isinstance(root, yaml.MappingNode):
        expected_text = f"expected the sections {_KEYS.names('')} as 'name:' lines"
        raise ConfigError(f"{source.at(root).where}: {expected_text}, not {yaml_text.kind(root)}")
    _put_mapping(layers, root, "", source)


def _put_override(layers: _Layers, override: str) -> None:
    """Put one ``key=value``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, for example --set train.max_steps=1000")
    source = _Source(f"--set {key}", key)
    node = yaml_text.compose(text or "null", source.name, lines=False)
    if node is None:
        raise ConfigError(f"{source.name}: expected a value after '=', not only a comment")
    if key in _KEYS.sections:
        _put_section(layers, node, key, source)
    else:
        layers.put(key, yaml_text.construct(node, source.name), source.at(node))


def _put_mapping(layers: _Layers, node: yaml.MappingNode, section: str, source: _Source) -> None:
    """Put the keys of a mapping, section by section."""
    seen: dict[str, str] = {}
    for key_node, value_node in node.value:
        origin = source.at(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            keys = _KEYS.names(section)
            raise ConfigError(
                f"{origin.where}: expected one of the keys {keys}, not {yaml_text.kind(key_node)}"
            )
        key = f"{section}.{key_node.value}" if section else key_node.value
        current = RENAMED.get(key, key)
        if current in seen:
            raise ConfigError(f"{origin.where}: '{key}' is given twice, first at {seen[current]}")
        seen[current] = origin.where
        if "." in key_node.value and key in _KEYS.leaves:
            above, _, name = key.rpartition(".")
            raise ConfigError(
                f"{origin.where}: write '{name}:' in the section '{above}:' instead of '{key}:'"
            )
        if key in _KEYS.sections:
            _put_section(layers, value_node, key, source)
        else:
            if key not in REMOVED:
                _known(current, origin)  # before its value is looked at
            layers.put(key, yaml_text.construct(value_node, origin.where), origin)


def _put_section(layers: _Layers, node: yaml.Node, section: str, source: _Source) -> None:
    """Put the keys of a section."""
    if isinstance(node, yaml.MappingNode):
        _put_mapping(layers, node, section, source)
    elif not yaml_text.is_null(node):  # `train:` with nothing under it is no error
        hint = f" (did you mean '{section}.name'?)" if f"{section}.name" in _KEYS.leaves else ""
        what = f"'{section}' is a section with the keys {_KEYS.names(section)}"
        raise ConfigError(f"{source.at(node).where}: {what}, not {yaml_text.kind(node)}{hint}")


def _refusal(key: str, value: Any, origin: _Origin) -> ConfigError:
    """Return the error of a value that its setting does not take."""
    info = _KEYS.leaves[key]
    subject = "" if key == origin.key else f"{key} "
    is_unquoted = takes(info, str) and not choices(info) and isinstance(value, int | float)
    hint = "; put it in quotes if it is meant as text" if is_unquoted else ""
    what = f"must be {expected(info, origin.null)}, not {_show(value)}"
    return ConfigError(f"{origin.where}: {subject}{what}{hint}")


def _show(value: Any) -> str:
    """Return a value as somebody would have written it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return f"'{value if len(value) <= 60 else value[:59] + '…'}'"
    return reprlib.repr(value)
