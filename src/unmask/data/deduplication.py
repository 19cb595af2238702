"""Documents that occur before among all parts, found by the steps of datatrove; the first, or one, of each is kept.

``exact`` is equality of :func:`unmask.data.corpus.document_key`; ``near`` is a MinHash of word trigrams, as in ``unmask
check``, whose bands find 92% of the pairs of Jaccard similarity 0.8 and 56% of those of 0.7; documents that are linked by
such pairs are one group.

::

    .NAME.partial/duplicates/signatures/   of each part
    .NAME.partial/duplicates/found/        numbers of documents, of each part
    .NAME.partial/duplicates/*.done        the stages that are whole
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import exact_dedup, minhash
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger

from unmask.data.corpus import document_key
from unmask.data.parts import Plan, Stage

_RANGES = 16
"""Ranges of hashes that are searched apart, whatever the number of tasks."""
_PRIORITY = 65535  # of the first part, the most that there is
_HASH = HashConfig(hash_fc="sha1")  # xxhash 4 does not take the strings that it is given
_NEAR = MinhashConfig(n_grams=3, num_buckets=14, hashes_per_bucket=8, hash_config=_HASH)
# A word, or a character of a script that is written without spaces.
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")  # fmt: skip

logger.disable("datatrove")
for _module in (exact_dedup, minhash):  # their progress bars
    setattr(_module, "tqdm", lambda items, **options: items)  # noqa: B010


def _key(document: Document) -> str:
    return str(document_key(document.text))


class _Words(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class _NearSignature(MinhashDedupSignature):
    """Compares a text without a trigram as a whole; otherwise it would be no duplicate of anything."""

    def get_shingles(self, text: str) -> np.ndarray:
        found: np.ndarray = super().get_shingles(text)
        return found if found.size else np.array([[self._hash_func(" ".join(text.split()))]], dtype=np.uint64)


def _exact(part: int) -> ExactDedupConfig:
    return ExactDedupConfig(_key, lambda _: max(1, _PRIORITY - part), _HASH)


def duplicate_stages(plan: Plan) -> list[Stage]:
    """Return what must be done, one after another, before the parts are written."""
    signatures, found = str(_folder(plan) / "signatures"), str(_folder(plan) / "found")
    stages: list[tuple[str, str, int, Callable[[int], Any]]] = [
        ("signatures", "parts", len(plan.parts), partial(_sign, plan))
    ]
    if plan.deduplicate == "exact":
        search = ExactFindDedups(signatures, found, _exact(0), lines_to_buffer=1024)
        stages.append(
            ("duplicates", "hash ranges", _RANGES, lambda number: search.run(None, number, _RANGES))
        )
    else:
        pairs = str(_folder(plan) / "pairs")
        buckets = MinhashDedupBuckets(signatures, pairs, config=_NEAR, lines_to_buffer=1024)
        groups = MinhashDedupCluster(pairs, found, config=_NEAR, lines_to_buffer=1024)
        count = _NEAR.num_buckets
        stages.append(("duplicates", "bands", count, lambda number: buckets.run(None, number, count)))
        stages.append(("groups", "steps", 1, lambda number: groups.run(None, number, 1)))
    return [_stage(plan, *stage) for stage in stages]


def kept(plan: Plan) -> Callable[[Iterable[str], int], Iterator[str]]:
    """Return what yields the texts of a part that are kept."""
    found = str(_folder(plan) / "found")

    def keep(texts: Iterable[str], part: int) -> Iterator[str]:
        if plan.deduplicate == "exact":
            step = ExactDedupFilter(found, _exact(part))
        else:
            step = MinhashDedupFilter(found)
        for document in step.run(_documents(texts), part, len(plan.parts)):
            yield document.text

    return keep


def _folder(plan: Plan) -> Path:
    return plan.folder / "duplicates"


def _stage(plan: Plan, name: str, unit: str, count: int, run: Callable[[int], Any]) -> Stage:
    def done(number: int) -> Path:
        return _folder(plan) / f"{name}-{number:05d}.done"

    def run_once(number: int) -> None:
        for inside in ("signatures", "pairs", "found"):
            (_folder(plan) / inside).mkdir(parents=True, exist_ok=True)
        run(number)
        done(number).touch()

    return Stage(
        name, count, lambda number: done(number).exists(), run_once, f"duplicates/{name}-*.done", unit
    )


def _sign(plan: Plan, part: int) -> None:
    """Write the signatures of a part, each file whole or not at all."""
    with plan.own_folder(f"signatures-{part:05d}") as folder:
        if plan.deduplicate == "exact":
            step = ExactDedupSignature(str(folder), _exact(part), finder_workers=_RANGES)
        else:
            step = _NearSignature(str(folder), config=_NEAR, language=_Words())
        texts = (document.text for document in plan.reader().part(*plan.parts[part]))
        step.run(_documents(texts), part, len(plan.parts))
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            place = _folder(plan) / "signatures" / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def _documents(texts: Iterable[str]) -> Iterator[Document]:
    return (Document(text, "") for text in texts)
