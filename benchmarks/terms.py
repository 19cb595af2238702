"""How well `terms` finds the words of a domain: ranks of 50 hand-made words of two domains, and of function words.

The words were written down before looking at a text. Texts are given: general text, and text of a domain each.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from harness import DATA, TEXTS, VOCABULARY

WORDS = {
    "biomedicine": (
        "placebo cohort dose serum plasma tumor antibody mutation receptor protein mice clinical diagnosis symptoms "
        "glucose insulin therapy inhibitor chemotherapy randomized inflammation biopsy lesions cytokine genome"
    ).split(),
    "linguistics": (
        "parser corpus syntactic semantic treebank annotation lexical lexicon grammar parsing tagger bigram coreference "
        "disambiguation wordnet translation alignment morphological clustering supervised discourse anaphora entailment "
        "sentence corpora"
    ).split(),
}
FUNCTION_WORDS = (
    "a about after all also among an and are as at be been between both but by can could did do does during each for "
    "from had has have how if in into is it its may more most much no not of on only or other our out over same several "
    "should since so some such than that the their them then there these they this those through to under use used "
    "using very was we were what when where whether which while who will with within would you"
).split()
AT = (100, 300, 1000)


def z_ranking(domain: Counter[str], general: Counter[str]) -> list[str]:
    """Rank by the z score of the log-odds ratio alone, as `terms` did before."""
    sizes = domain.total(), general.total()
    strength = 0.1 * min(sizes)

    def z(word: str) -> float:
        counts = domain[word], general[word]
        prior = strength * sum(counts) / sum(sizes)
        odds = [
            math.log((count + prior) / (size + strength - count - prior))
            for count, size in zip(counts, sizes, strict=True)
        ]
        return (odds[0] - odds[1]) / math.sqrt(sum(1 / (count + prior) for count in counts))

    scores = {word: z(word) for word, count in domain.items() if count >= 5 and any(map(str.isalpha, word))}
    return sorted((word for word in scores if scores[word] >= 1.96), key=lambda word: (-scores[word], word))


def show(name: str, ranked: list[str], words: list[str]) -> None:
    """Print how many words of a list, and how many function words, are among the first."""
    place = {word: rank for rank, word in enumerate(ranked)}

    def among(listed: list[str], most: float) -> int:
        return sum(place.get(word, math.inf) < most for word in listed)

    found = ", ".join(f"{among(words, most)} in the first {most}" for most in AT)
    usual = f"{among(FUNCTION_WORDS, 100)} in the first 100, {among(FUNCTION_WORDS, math.inf)} in all"
    sys.stdout.write(
        f"  {name:<8} {len(ranked):6,} terms; of {len(words)} words {found}; function words {usual}\n"
        f"           first: {', '.join(ranked[:10])}\n"
    )


def counted(text: Path, tokenizer: Any, documents: str) -> tuple[Counter[str], Counter[str]]:
    """Return the words of a text, and the documents that have them."""
    from unmask.config.settings import DocumentSettings
    from unmask.data.masking.terms import count_words
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import vocabulary_of

    words = vocabulary_of(tokenizer).words
    assert words is not None
    settings = DocumentSettings.model_validate({"documents": documents})
    with tempfile.TemporaryDirectory() as folder:
        return count_words(prepare([text], settings, tokenizer, Path(folder) / "shards"), words)


def main() -> None:
    """Print the ranks for each domain."""
    from unmask.data.masking.terms import find_salient_terms
    from unmask.data.tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--general", type=Path, default=TEXTS / "enwiki-000.txt")
    parser.add_argument("--biomedicine", type=Path, default=DATA / "biomedical" / "pmc-000.txt")
    parser.add_argument(
        "--linguistics", type=Path, default=DATA / "tasks" / "citation-intent" / "train.jsonl"
    )
    parser.add_argument("--tokenizer", default=str(VOCABULARY))
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.tokenizer)
    general, _ = counted(given.general, tokenizer, "auto")
    for name, words in WORDS.items():
        domain, documents = counted(getattr(given, name), tokenizer, "auto")
        sys.stdout.write(f"{name}\n")
        show("z score", z_ranking(domain, general), words)
        show("terms", [term.text for term in find_salient_terms(domain, general, documents)], words)


if __name__ == "__main__":
    main()
