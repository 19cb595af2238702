"""The model card of a run: the README.md of a Hugging Face checkpoint, from the files of the run.

A card is made to be published, so it contains no command line and no path of the machine that trained the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from unmask.errors import DataError, DiskError, plural
from unmask.reporting.adaptation import section
from unmask.reporting.format import (
    METRICS,
    as_float,
    change_interval,
    masks,
    metric,
    metric_change,
    own_metrics,
)
from unmask.reporting.headline import standing, verdict
from unmask.reporting.page import (
    before_after,
    comparison,
    course_of,
    facts,
    limits,
    ngram_note,
    write_report,
)
from unmask.reporting.record import RunRecord, read_record
from unmask.reporting.render import environment
from unmask.run_folder import GENERATOR, RunFolder
from unmask.storage import JsonDict, write_atomically

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_HUB_DATA = re.compile(r"hf://([\w.-]+/[\w.-]+)")
# The facts of the report that describe the model, not the machine and the time.
_PUBLIC = {"Model", "Text", "Training", "Hashes (SHA-256)"}
_PRIVATE = {"Started", "Finished", "Starting point"}
_PLACE = "path/to/this/folder"


def model_card(folder: RunFolder) -> str:
    """Return the text of ``RUN/model/README.md``: YAML front matter and Markdown, from the run's own files.

    Raises:
        DataError: the folder holds none of a run's files, or one of them is not in its format.
    """
    record = read_record(folder)
    data = record.config.get("data") or {}
    return (
        environment()
        .get_template("card.md.j2")
        .render(
            front=yaml.safe_dump(_front_matter(record), sort_keys=False, allow_unicode=True),
            name=_plain(record.name),
            begun=_begun(record),
            verdict=_plain(verdict(record)),
            standing=_plain((course_of(record) if record.adaptation else standing(record)) or ""),
            level=_plain(standing(record) or "") if record.adaptation else "",
            rows=[(_plain(name), row) for name, row in comparison(record)],
            ngram=_plain(ngram_note(record)),
            masks=masks(record.evaluation or record.info),
            replaced=(record.evaluation or {}).get("by_replacement"),
            mask_rate=(record.evaluation or {}).get("mask_rate"),
            evaluation=record.evaluation,
            before_after=list(before_after(record)),
            adaptation=_adaptation(record),
            warnings=[_plain(warning) for warning in limits(record, examples=False)],
            facts=[(_plain(name), _plain(value)) for name, value in _public_facts(record)],
            settings=_fenced(_public_settings(record), "yaml"),
            max_length=data.get("max_length"),
            same_source=not data.get("heldout"),
            version=_plain(str(record.info.get("unmask") or "")),
            place=_PLACE,
            objective=record.objective,
            learned=_plain(
                str((record.info.get("choices") or {}).get("objective") or "an objective of its own")
            ),
            kind=record.info.get("model_class"),
            embeds=(folder.model / "modules.json").is_file(),
            own_metrics=[tuple(map(_plain, row)) for row in own_metrics(record.evaluation or {})],
            detector=record.info.get("model_class") if record.detects else None,
            generator=GENERATOR,
        )
    )


def rebuild_report(folder: RunFolder) -> Path:
    """Write the report of a run again, and a card if its model has none; return the path of the report.

    Raises:
        DataError: there is no run in the folder.
        DiskError: a file cannot be written.
    """
    if not folder.root.is_dir():
        raise DataError("no such folder; expected a run folder such as runs/demo", path=folder.root)
    path = write_report(folder)
    write_missing_card(folder)
    return path


def write_missing_card(folder: RunFolder) -> None:
    """Write the card of a finished model that has none; an existing one may have been edited and stays.

    Raises:
        DataError: as :func:`model_card`.
        DiskError: it cannot be written.
    """
    path = folder.model / "README.md"
    if not folder.model.is_dir() or path.exists():
        return
    try:
        write_atomically(path, model_card(folder))
    except OSError as error:
        raise DiskError(f"{path}: the model card cannot be written: {error.strerror}") from None


def published_card(card: str, repository: str, forms: Mapping[str, JsonDict]) -> str:
    """Return a card as it stands on the Hub: its code names the repository, and a table compares the exported forms.

    Args:
        card: as in the model folder.
        repository: ``org/name``.
        forms: ``parity.json`` of each form, by its file in the repository.
    """
    card = card.replace(_PLACE, repository)
    if not forms:
        return card
    worse = {
        name: ", worse than the tolerance" if found.get("refused") else "" for name, found in forms.items()
    }
    rows = [f"| `{name}`{worse[name]} {''.join(_form_cells(found))}|" for name, found in forms.items()]
    return "\n".join(
        [
            card.rstrip(),
            "\n## Other forms\n",
            "Compared with the model in PyTorch (fp32) at the same masked tokens of held-out text.\n",
            "| file | accuracy | change | 95% interval | loss | change | 95% interval |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
        ]
    )


def _form_cells(found: JsonDict) -> Iterator[str]:
    for name in ("accuracy", "loss"):
        value, change = found["exported"][name]["value"], found["difference"][name]
        yield f"| {metric(name, value)} | {metric_change(name, change['value'])} "
        yield f"| {change_interval(name, change['interval'])} "


def hub_name(name: object) -> str | None:
    """Return ``name`` without its revision where it names a model on the Hub, ``None`` where it is a folder."""
    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name) or Path(name).is_dir():
        return None
    return name.split("@")[0]


def _front_matter(record: RunRecord) -> dict[str, Any]:
    """What the Hub reads. Language and licence are not known here, so they are not claimed."""
    base = hub_name((record.config.get("model") or {}).get("name"))
    data = record.config.get("data") or {}
    datasets = _hub_data(data.get("inputs") or [])
    if record.objective == "contrastive":
        front: dict[str, Any] = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
        }
    else:
        front = {"library_name": "transformers"} | ({} if record.detects else {"pipeline_tag": "fill-mask"})
    if base:
        front["base_model"] = base
    if datasets := [name for name in datasets if name]:
        front["datasets"] = datasets
    if not record.detects and (
        results := _hub_results(record, _hub_data(data.get("heldout") or data.get("inputs") or []))
    ):
        front["model-index"] = [{"name": record.name, "results": [results]}]
    return front | {
        "tags": [
            "replaced-token-detection" if record.detects else "masked-lm",
            "unmask",
            "domain-adaptation" if _adapts(record) else "from-scratch",
        ]
    }


def _hub_data(inputs: Iterable[object]) -> list[str]:
    """Return the names of data sets on the Hub, sorted, and an empty one for any other text."""
    return sorted({found.group(1) if (found := _HUB_DATA.match(str(each))) else "" for each in inputs})


def _hub_results(record: RunRecord, sources: Sequence[str]) -> dict[str, Any] | None:
    """Return the final metrics as the Hub lists them, with what they rest on; one that is no number is left out."""
    found = record.evaluation or {}
    metrics = [
        {"type": key, "value": value, "name": f"{METRICS[key]} at masked tokens"}
        for key in ("accuracy", "loss", "perplexity")
        if math.isfinite(value := as_float(found.get(key)))
    ]
    if not metrics:
        return None
    counts = {key: found[key] for key in ("documents", "masked_tokens", "mask_rate") if key in found}
    rests = plural(found["masked_tokens"], "masked token")
    if "documents" in found:
        rests += f" in {plural(found['documents'], 'document')}"
    return {
        "task": {"type": "fill-mask", "name": "Masked language modelling"},
        "dataset": {
            "type": sources[0] if len(sources) == 1 and sources[0] else "text",
            "name": f"held-out text: {rests}, {masks(found)}",
            "args": counts,
        },
        "metrics": metrics,
    }


def _adapts(record: RunRecord) -> bool:
    return bool((record.config.get("model") or {}).get("name"))


def _begun(record: RunRecord) -> str:
    """How the model was made, in one sentence."""
    model = record.config.get("model") or {}
    name, preset = model.get("name"), model.get("preset")
    if name and hub_name(name):
        return f"This model is [{_plain(name)}](https://huggingface.co/{hub_name(name)}), trained further"
    if name:
        return f"This model is the local checkpoint {_code(Path(str(name)).name)}, trained further"
    if preset:
        return f"This model was trained from scratch (preset {_code(str(preset))})"
    return "This model was trained"


def _adaptation(record: RunRecord) -> dict[str, Any] | None:
    """The metrics before and after, without the examples: they quote text that may be private."""
    found = section(record)
    return found and {
        key: found[key]
        for key in ("texts", "forgetting", "groups", "counted_on", "added", "trade_off", "verdict")
    }


def _public_facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    for title, group in facts(record):
        if title in _PUBLIC:
            yield from (fact for fact in group if fact[0] not in _PRIVATE)
    versions = [value for title, group in facts(record) for name, value in group if name == "Versions"]
    yield from (("Versions", value) for value in versions)


def _public_settings(record: RunRecord) -> str:
    """The settings as YAML, without paths of the machine of the run."""
    config = deepcopy(dict(record.config))
    data, model, masking = (config.get(part) for part in ("data", "model", "masking"))
    if isinstance(masking, dict):
        masking.pop("terms", None)
    if isinstance(data, dict):
        for key in ("inputs", "heldout", "replay", "forgetting_eval"):
            data.pop(key, None)
        if not data:
            del config["data"]
    if isinstance(model, dict):
        for key in ("name", "tokenizer"):
            if isinstance(model.get(key), str) and not hub_name(model[key]):
                model[key] = Path(model[key]).name
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""


def _plain(text: str) -> str:
    """``text`` on one line, with the special characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span on one line that no backtick in ``text`` can end."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{' '.join(text.split())}{ticks}"


def _fenced(text: str, language: str) -> str:
    """A code block that nothing in ``text`` can end, or nothing for no text."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}" if text.strip() else ""
