"""Recompute the candidates of `unmask fill` with simple code, and compare.

Plain transformers, one sentence at a time, all logits at all positions: slow, but without the optimisations that could be
wrong. Single masks: the best tokens. Two masks: every pair where the vocabulary is small, otherwise a beam search written
out here; also the best pairs with independent masks. Blanks and given words: their tokens by the chain rule.

    python benchmarks/check_fill.py MODEL --text FILE [--texts 20] [--beam 16]

The exit code is 1 if a log-probability differs by more than the tolerance, or the candidates differ.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from pathlib import Path

import torch
from harness import say, table
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.inference.fill import FillMask
from unmask.model.load import load_for_inference

TOLERANCE = 1e-4
TOP_K = 5
EVERY_PAIR = 1500  # largest vocabulary for which all pairs are tried
LENGTHS = (1, 2, 3)  # subwords in the blanks


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--beam", type=int, default=16)
    arguments = parser.parse_args()
    ours = FillMask(load_for_inference(arguments.model, device="cpu"))
    direct = Direct(arguments.model)
    lines = sentences(arguments.text, arguments.texts)
    checks = {
        "one mask": one_mask(ours, direct, lines),
        "two masks, joint": two_masks(ours, direct, lines, arguments.beam),
        "two masks, independent": independent_masks(ours, direct, lines),
        "blanks of 1 to 3 subwords": blanks(ours, direct, lines),
        "given words": given_words(ours, direct, lines),
    }
    rows = [
        [name, str(len(differences)), f"{max(differences, default=math.inf):.2e}"]
        for name, differences in checks.items()
    ]
    table(["check", "values", "largest difference of log-probabilities"], rows)
    worst = max(max(differences, default=math.inf) for differences in checks.values())
    say("the same" if worst <= TOLERANCE else f"NOT the same: {worst:.2e} is more than {TOLERANCE}")
    return int(worst > TOLERANCE)


def sentences(files: list[Path], count: int) -> list[list[str]]:
    """Return the words of some lines of text files."""
    lines = [
        line.split()
        for path in files
        for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ]
    lines = [line[:25] for line in lines if len(line) > 6 and "[MASK]" not in line]
    return random.Random(1860).sample(lines, min(count, len(lines)))


class Direct:
    """A checkpoint in plain transformers."""

    def __init__(self, name: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32).eval()
        special = {*self.tokenizer.all_special_ids, *(
            number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special
        )}  # fmt: skip
        self.candidates = sorted(set(self.tokenizer.get_vocab().values()) - special)
        self.mask = self.tokenizer.mask_token_id

    def ids(self, words: list[str], masks: dict[int, int]) -> list[int]:
        """Return the ids of a sentence in which some words are replaced by the given numbers of masks."""
        marked = [self.tokenizer.mask_token if at in masks else word for at, word in enumerate(words)]
        ids = self.tokenizer(" ".join(marked), padding=False)["input_ids"]
        counts = iter(masks[at] for at in sorted(masks))
        return [number for one in ids for number in ([one] * next(counts) if one == self.mask else [one])]

    def logs(self, ids: list[int], place: int) -> torch.Tensor:
        """Return ``[V]`` log-probabilities at one position of one sentence."""
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0].double()[place].log_softmax(-1)

    def order(self, ids: list[int]) -> list[int]:
        """Return the mask positions, the one with the most probable token first."""
        places = [place for place, number in enumerate(ids) if number == self.mask]
        peaks = {place: float(self.logs(ids, place)[self.candidates].max()) for place in places}
        return sorted(places, key=lambda place: -peaks[place])

    def chain(self, ids: list[int], tokens: list[int]) -> float:
        """Return the joint log-probability of tokens at the masks, given from left to right."""
        order = self.order(ids)
        chosen = dict(zip(sorted(order), tokens, strict=True))
        shown, total = list(ids), 0.0
        for place in order:
            total += float(self.logs(shown, place)[chosen[place]])
            shown[place] = chosen[place]
        return total

    def best_pairs(self, ids: list[int], beam: int) -> list[tuple[float, list[int]]]:
        """Return the best fillings of two masks; all pairs are tried if the vocabulary is small."""
        first, second = self.order(ids)
        start = self.logs(ids, first)
        keep = len(self.candidates) if len(self.candidates) <= EVERY_PAIR else beam
        found = []
        for one in sorted(self.candidates, key=lambda number: -float(start[number]))[:keep]:
            shown = [one if place == first else number for place, number in enumerate(ids)]
            after = self.logs(shown, second)
            total, numbers = (after[self.candidates] + start[one]).topk(min(TOP_K, len(self.candidates)))
            for value, other in zip(total.tolist(), numbers.tolist(), strict=True):
                pair = {first: one, second: self.candidates[other]}
                found.append((value, [pair[place] for place in sorted(pair)]))
        return sorted(found, reverse=True)[:TOP_K]


# ---------------------------------------------------------------- checks: each returns differences


def one_mask(ours: FillMask, direct: Direct, lines: list[list[str]]) -> list[float]:
    results = ours.fill([with_gaps(words, {3: "[MASK]"}) for words in lines], TOP_K)
    differences = []
    for words, result in zip(lines, results, strict=True):
        ids = direct.ids(words, {3: 1})
        logs = direct.logs(ids, ids.index(direct.mask))
        best = logs[direct.candidates].topk(TOP_K).values.tolist()
        for candidate, wanted in zip(result.candidates, best, strict=True):
            differences.append(abs(math.log(candidate.probability) - wanted))
            differences.append(abs(float(logs[candidate.token_ids[0]]) - wanted))
    return differences


def two_masks(ours: FillMask, direct: Direct, lines: list[list[str]], beam: int) -> list[float]:
    width = len(direct.candidates) if len(direct.candidates) <= EVERY_PAIR else beam
    results = ours.fill([with_gaps(words, {2: "[MASK]", 4: "[MASK]"}) for words in lines], TOP_K, beam=width)
    differences = []
    for words, result in zip(lines, results, strict=True):
        ids = direct.ids(words, {2: 1, 4: 1})
        for candidate, (wanted, _) in zip(result.candidates, direct.best_pairs(ids, width), strict=True):
            differences.append(abs(candidate.score - wanted))
            differences.append(abs(direct.chain(ids, candidate.token_ids) - wanted))
    return differences


def independent_masks(ours: FillMask, direct: Direct, lines: list[list[str]]) -> list[float]:
    texts = [with_gaps(words, {2: "[MASK]", 4: "[MASK]"}) for words in lines]
    differences = []
    for words, result in zip(lines, ours.fill(texts, TOP_K, ranking="independent"), strict=True):
        ids = direct.ids(words, {2: 1, 4: 1})
        places = [place for place, number in enumerate(ids) if number == direct.mask]
        left, right = (direct.logs(ids, place)[direct.candidates].topk(TOP_K).values for place in places)
        best = (left[:, None] + right).flatten().topk(TOP_K).values.tolist()
        differences += [
            abs(candidate.score - wanted) for candidate, wanted in zip(result.candidates, best, strict=True)
        ]
    return differences


def blanks(ours: FillMask, direct: Direct, lines: list[list[str]]) -> list[float]:
    texts = [with_gaps(words, {3: f"{{{LENGTHS[0]}-{LENGTHS[-1]}}}"}) for words in lines]
    differences = []
    for words, result in zip(lines, ours.fill(texts, TOP_K), strict=True):
        for candidate in result.candidates:
            pieces = len(candidate.tokens)
            wanted = direct.chain(direct.ids(words, {3: pieces}), candidate.token_ids)
            differences.append(abs(math.log(candidate.probability) - wanted))
            differences.append(abs(candidate.score - wanted / pieces))
            written = direct.ids([candidate.text if at == 3 else word for at, word in enumerate(words)], {})
            place = direct.ids(words, {3: 1}).index(direct.mask)
            if written[place : place + pieces] != candidate.token_ids:
                differences.append(math.inf)  # the tokenizer would tokenise the word differently
    return differences


def given_words(ours: FillMask, direct: Direct, lines: list[list[str]]) -> list[float]:
    """Score the original word and one of another line."""
    differences = []
    for number, words in enumerate(lines):
        candidates = [word for word in (words[3], lines[number - 1][3]) if word.isalpha()]
        if not candidates:
            continue
        (result,) = ours.fill([with_gaps(words, {3: "[MASK]"})], targets=candidates)
        good = [word for word in candidates if word not in result.target_errors]
        for word, candidate in zip(good, result.candidates, strict=True):
            place = direct.ids(words, {3: 1}).index(direct.mask)
            written = direct.ids([word if at == 3 else other for at, other in enumerate(words)], {})
            pieces = written[place : place + len(candidate.token_ids)]
            wanted = direct.chain(direct.ids(words, {3: len(pieces)}), pieces)
            differences.append(abs(math.log(candidate.probability) - wanted))
    return differences


def with_gaps(words: list[str], gaps: dict[int, str]) -> str:
    return " ".join(gaps.get(at, word) for at, word in enumerate(words))


if __name__ == "__main__":
    sys.exit(main())
