"""What the tests share: no network, one thread, tiny tokenizers of every family and tiny random models.

Fixtures of the session are shared by all tests: never change a tokenizer they return (copy it first), never write
into a folder of :func:`checkpoint`. Everything is made in code from a fixed seed, so that every run sees the same.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import runpy
import shlex
import shutil
import socket
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from unmask.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Before torch, transformers or datasets is imported: they read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # HF_HUB_OFFLINE=0 make test ARGS="-m weights" may download
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_TELEMETRY="1",
    COLUMNS="120",
)
for forced in ("FORCE_COLOR", "GITHUB_ACTIONS"):  # either makes rich believe that it writes to a terminal
    os.environ.pop(forced, None)

hypothesis.settings.register_profile("unmask", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("unmask")

ModelMaker = Callable[..., "PreTrainedModel"]


class Messages(Progress):
    """Appends what is logged to a list."""

    def __init__(self, messages: list[str] | None) -> None:
        self._messages = [] if messages is None else messages

    def log(self, text: str) -> None:
        self._messages.append(text)


def understood(command: str | list[str]) -> dict[str, Any]:
    """Parse a command line of unmask, whole or its arguments, without running it; return the options that are given.

    Raises:
        click.UsageError: it is none.
    """
    import typer

    from unmask.cli.main import app

    arguments = shlex.split(command)[1:] if isinstance(command, str) else command
    verb: Any = typer.main.get_command(app)
    context, name = None, "unmask"
    while True:
        try:
            context = verb.make_context(name, arguments, parent=context)
        except typer.Exit:  # --help, --version
            return {}
        rest = [*context._protected_args, *context.args]
        if not hasattr(verb, "commands") or not rest:
            return dict(context.params)
        name, verb, arguments = verb.resolve_command(context, rest)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what `datasets` and unmask cache out of the home folder, and no longer than the session."""
    folder = tempfile.mkdtemp(prefix="unmask-datasets-")
    os.environ["HF_DATASETS_CACHE"] = folder
    os.environ["UNMASK_CACHE"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and not among what is imported: 8% of the time of the tests otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection but those to this machine, so that no test leans on the network unseen."""
    if os.environ["HF_HUB_OFFLINE"] == "0":
        yield
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        away = self.family != getattr(socket, "AF_UNIX", None) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        )
        if away:
            raise RuntimeError(f"a test tried to reach {address}; tests run without a network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_mps() -> None:
    """Compute on the CPU of a Mac too, whose results are what tests expect."""
    if sys.platform == "darwin" and os.environ.get("UNMASK_TEST_DEVICE") != "mps":
        import torch

        torch.backends.mps.is_available = lambda: False


# --- text ---------------------------------------------------------------------------------------------------------

SUBJECTS = (
    "The old lighthouse keeper|A young engineer|Dr. Marguerite Dubois|The city council|My neighbour's dog|"
    "Every student|The unbelievably patient translator|Nobody in the village|An international committee|"
    "The river|Captain O'Brien|Her grandmother|The naïve café owner|A well-known physicist"
).split("|")
VERBS = (
    "repaired|described|photographed|misunderstood|reorganised|remembered|measured|forgot about|sold|carried|"
    "discovered|celebrated|counterbalanced|translated|painted"
).split("|")
OBJECTS = (
    "the broken telescope|three small boats|an anti-slavery pamphlet|the state-of-the-art microscope|two letters|"
    "a handwritten dictionary|the election of 1860|several mountains|the railway timetable|her brother's violin|"
    "a bag of unripe apples|1,250 kilograms of wheat|the constitution|an unusually long sentence|the weather"
).split("|")
ENDINGS = (
    " in the morning.| before winter came.|, and then went home.| without saying a word!| for the second time.|"
    "; nobody objected.| in South Carolina.| (at least twice).| when the war broke out in April 1861.|.|"
    ' and asked: "why not?"| while it rained.| just over a month later.'
).split("|")
CHINESE = (
    "春天来了，花园里的花都开了。|他每天早上七点去学校。|我们在北京住了三年。|这本书很有意思，你看过吗？|"
    "语言模型预测被遮住的字。|今天的天气比昨天好。|她用 Python 写了一个小程序。|科学家发现了新的行星。"
).split("|")


def sentences(count: int = 400) -> list[str]:
    """Return `count` different English sentences of 5 to 20 words."""
    draw = random.Random(1860)
    found: dict[str, None] = {}
    while len(found) < count:
        subject, verb, thing = draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(OBJECTS)
        found[f"{subject} {verb} {thing}{draw.choice(ENDINGS)}"] = None
    return list(found)


@pytest.fixture(scope="session")
def corpus_text() -> list[str]:
    """400 different short English sentences: capitals, digits, hyphens, quotes, accents, long words."""
    return sentences()


# --- tokenizers ---------------------------------------------------------------------------------------------------


def _pieces(words: Iterable[str], count: int) -> dict[str, int]:
    """Return the `count` most frequent pieces of words with their counts; ▁ stands before the front of a word.

    Printable ASCII and every other character of the words are among them. Built by counting because the trainers of
    `tokenizers` for WordPiece and Unigram give another vocabulary in every process.
    """
    found: Counter[str] = Counter()
    alphabet = set(string.ascii_letters + string.digits + string.punctuation)
    for word in words:
        alphabet.update(word)
        marked = "▁" + word
        for start in range(len(marked)):
            found.update(marked[start:end] for end in range(start + 2, min(start + 8, len(marked)) + 1))
    frequent = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]
    return dict.fromkeys(["▁", *sorted(alphabet)], 1) | dict(frequent)


def _wordpiece(texts: list[str], count: int = 500) -> PreTrainedTokenizerFast:
    from tokenizers import normalizers, pre_tokenizers
    from transformers import BertTokenizer

    lower = normalizers.BertNormalizer(lowercase=True).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    pieces = _pieces((word for text in texts for word, _ in split(lower(text))), count)
    front = {piece.removeprefix("▁") for piece in pieces if piece.startswith("▁") or len(piece) == 1}
    inside = {"##" + piece for piece in pieces if not piece.startswith("▁")}
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(front - {""}), *sorted(inside)]
    vocab = {entry: id for id, entry in enumerate(entries)}
    return BertTokenizer(vocab=vocab, model_max_length=128)


def _byte_level_vocabulary(texts: list[str], specials: list[str]) -> dict[str, Any]:
    """Train a byte-level BPE and return its `vocab` and `merges`; `specials` are its first ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    trained = json.loads(backend.to_str())["model"]
    return {"vocab": trained["vocab"], "merges": [tuple(merge) for merge in trained["merges"]]}


def _byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    from transformers import AddedToken, RobertaTokenizer

    trained = _byte_level_vocabulary(texts, ["<s>", "<pad>", "</s>", "<unk>"])
    vocab = trained["vocab"] | {
        "<mask>": len(trained["vocab"])
    }  # the last entry, as in the published vocabulary
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=vocab, merges=trained["merges"], mask_token=mask, model_max_length=128)


def _modernbert(texts: list[str]) -> PreTrainedTokenizerFast:
    """The layout of ModernBERT: byte level, special tokens at the end of the vocabulary, no class of its own."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import AddedToken, PreTrainedTokenizerFast

    trained = _byte_level_vocabulary(texts, specials=[])
    backend = Tokenizer(models.BPE(vocab=trained["vocab"], merges=trained["merges"]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", mask])
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=mask, model_max_length=128, model_input_names=inputs, **names
    )


def _unigram(texts: list[str]) -> PreTrainedTokenizerFast:
    """The layout of XLM-R: Unigram pieces behind a Metaspace, `<mask>` as the last entry."""
    from transformers import AddedToken, XLMRobertaTokenizer

    pieces = _pieces((word for text in texts for word in text.split()), 500)
    total = sum(pieces.values())
    scored = [(piece, math.log(times / total)) for piece, times in pieces.items()]
    specials = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return XLMRobertaTokenizer(
        vocab=[*specials, *scored, ("<mask>", 0.0)], mask_token=mask, model_max_length=128
    )


FAMILIES = {"wordpiece": _wordpiece, "byte_level": _byte_level, "unigram": _unigram}
"""Functions that make a tokenizer of each family for some texts."""


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's layout: lower-case WordPiece, [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4."""
    return _wordpiece(sentences())


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """RoBERTa's layout: byte-level BPE (Ġ), <s> <pad> </s> <unk> are ids 0 to 3, <mask> is the last one."""
    return _byte_level(sentences())


@pytest.fixture(scope="session")
def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """ModernBERT's layout: byte-level BPE (Ġ) with [UNK] [CLS] [SEP] [PAD] [MASK] as the last five ids."""
    return _modernbert(sentences())


@pytest.fixture(scope="session")
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """XLM-R's layout: Unigram with Metaspace (▁), <s> <pad> </s> <unk> are ids 0 to 3, <mask> is the last one."""
    return _unigram(sentences())


@pytest.fixture(scope="session")
def chinese_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's layout for Chinese: every Chinese character is a token of its own, Latin words are WordPiece."""
    return _wordpiece(CHINESE * 2 + sentences(50), count=150)


# --- models -------------------------------------------------------------------------------------------------------

# Weights wider than the usual 0.02: in so small a model attention and position would otherwise hardly show.
WIDE = 0.1
COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": WIDE,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODERN = {"attention_dropout": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Architecture: what its config needs beside the vocabulary, and the fixture with the tokenizer of its checkpoints.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (COMMON | NO_DROPOUT, "wordpiece_tokenizer"),
    # Positions of RoBERTa and MPNet begin behind the padding id: two more give the same usable 128.
    "roberta": (COMMON | NO_DROPOUT | {"max_position_embeddings": 130}, "byte_level_tokenizer"),
    "distilbert": (
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128}
        | {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": WIDE},
        "wordpiece_tokenizer",
    ),
    "electra": (COMMON | NO_DROPOUT | {"embedding_size": 16}, "wordpiece_tokenizer"),
    "albert": (COMMON | NO_DROPOUT | {"embedding_size": 16}, "unigram_tokenizer"),
    "deberta-v2": (
        COMMON
        | NO_DROPOUT
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
        | {"position_buckets": 32, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        "unigram_tokenizer",
    ),
    # The window of the local layer is short enough for sequences of 128 to feel it.
    "modernbert": (
        COMMON
        | MODERN
        | {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 16}
        | {"cls_token_id": 1, "sep_token_id": 2, "embedding_dropout": 0.0, "mlp_dropout": 0.0},
        "modernbert_tokenizer",
    ),
    "eurobert": (COMMON | MODERN | {"num_key_value_heads": 2, "mask_token_id": 3}, "modernbert_tokenizer"),
    "mobilebert": (
        COMMON
        | NO_DROPOUT
        | {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1},
        "wordpiece_tokenizer",
    ),
    "mpnet": (COMMON | NO_DROPOUT | {"max_position_embeddings": 130}, "wordpiece_tokenizer"),
}
# Those of `tests/model/test_batching.py`, made in the same way.
RARE_ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    # Their output for a text depends on what is in the batch beside it: on padding, or on the masks of a packed row.
    "fnet": (COMMON | {"hidden_dropout_prob": 0.0}, "wordpiece_tokenizer"),
    "convbert": (
        COMMON | NO_DROPOUT | {"embedding_size": 16, "conv_kernel_size": 3},
        "wordpiece_tokenizer",
    ),
    "funnel": (
        {"block_sizes": [1, 1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
        | {"num_decoder_layers": 1, "hidden_dropout": 0.0, "attention_dropout": 0.0}
        | {"initializer_std": WIDE, "max_position_embeddings": 128},
        "wordpiece_tokenizer",
    ),
    "nystromformer": (COMMON | NO_DROPOUT, "wordpiece_tokenizer"),
    "esm": (
        COMMON
        | NO_DROPOUT
        | {"max_position_embeddings": 130, "token_dropout": True, "position_embedding_type": "rotary"}
        | {"pad_token_id": 0, "mask_token_id": 4},
        "wordpiece_tokenizer",
    ),
    "camembert": (COMMON | NO_DROPOUT | {"max_position_embeddings": 130}, "unigram_tokenizer"),
    "deberta": (
        COMMON | NO_DROPOUT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "byte_level_tokenizer",
    ),
    # Their rotary embeddings return fp32 under autocast.
    "gte": (COMMON | NO_DROPOUT, "unigram_tokenizer"),
    "nomic_bert": (COMMON | NO_DROPOUT, "wordpiece_tokenizer"),
    "jina_embeddings_v3": (COMMON | NO_DROPOUT, "unigram_tokenizer"),
    "ultrabert": (COMMON | NO_DROPOUT, "wordpiece_tokenizer"),
}


def _tiny_model(architecture: str, vocab_size: int, **config: Any) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape, _ = (ARCHITECTURES | RARE_ARCHITECTURES)[architecture]
    settings = AutoConfig.for_model(architecture, vocab_size=vocab_size, **(shape | config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForMaskedLM.from_config(settings).eval()


@pytest.fixture(scope="session")
def tiny_model() -> ModelMaker:
    """Return `make(architecture, vocab_size, **config) -> PreTrainedModel`: a new random masked language model.

    The architectures are the keys of `ARCHITECTURES` and `RARE_ARCHITECTURES`. Hidden size 32, 2 layers, 128 usable positions, no dropout,
    in evaluation mode, the same weights every time; `config` overrides single entries of the configuration.
    """
    return _tiny_model


@pytest.fixture(scope="session")
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return `make(architecture) -> Path`: a folder with a tiny model and its tokenizer, made once a session."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            tokenizer = request.getfixturevalue((ARCHITECTURES | RARE_ARCHITECTURES)[architecture][1])
            model = _tiny_model(architecture, len(tokenizer), **_special_ids(architecture, tokenizer))
            folder = tmp_path_factory.mktemp(architecture)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


def _special_ids(architecture: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The configuration's own record of the special tokens."""
    first = tokenizer.cls_token_id
    last = tokenizer.sep_token_id
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": first, "eos_token_id": last}
    if architecture == "modernbert":
        ids |= {"cls_token_id": first, "sep_token_id": last}
    if architecture == "eurobert":
        ids |= {"mask_token_id": tokenizer.mask_token_id}
    return ids


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Any]:
    """Return `make(vocabulary, lengths, rate=0.3, seed=0) -> Batch` of random tokens, longest sequence first."""
    import numpy as np

    from unmask.data.batches import Batch

    def make(vocabulary: Any, lengths: list[int], rate: float = 0.3, seed: int = 0) -> Batch:
        draw = np.random.default_rng(seed)
        lengths = sorted(lengths, reverse=True)
        cuts = np.concatenate([[0], np.cumsum(lengths)])
        ids = draw.choice(vocabulary.replacements, cuts[-1]).astype(np.int64)
        index = np.flatnonzero(draw.random(len(ids)) < rate)
        targets = ids[index]
        ids[index] = vocabulary.mask_id
        positions = np.concatenate([np.arange(length) for length in lengths])
        return Batch(ids, positions, cuts.astype(np.int32), index, targets, np.arange(len(lengths)))

    return make


@pytest.fixture
def load(checkpoint: Callable[[str], Path]) -> Callable[..., Any]:
    """Return `load(architecture, **arguments)`: a tiny model from its checkpoint, on the CPU."""
    from unmask.model.load import load_for_inference

    return lambda architecture, **arguments: load_for_inference(
        str(checkpoint(architecture)), device="cpu", **arguments
    )


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Any:
    """Forty short documents, tokenised for the tiny BERT."""
    import numpy as np

    from unmask.config.settings import DocumentSettings
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("text")
    words = "river boat letter winter telescope engineer unripe dictionary mountains".split()
    texts = [" ".join(np.random.default_rng(n).choice(words, 3 + n % 9)) for n in range(40)]
    (folder / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    tokenizer = load_tokenizer(str(checkpoint("bert")))
    return prepare([folder / "text.txt"], DocumentSettings(documents="line"), tokenizer, folder / "shards")


@pytest.fixture(scope="session")
def loop_of() -> Callable[..., Any]:
    """Return `make(model, texts, batch_tokens, **fields) -> Loop`: one process, AdamW, constant rates; rows go to `loop.rows`."""
    import numpy as np

    from unmask.config.settings import MaskingSettings, OptimizerSettings
    from unmask.data.batches import TextSource
    from unmask.data.training_stream import TrainingStream
    from unmask.training.loop import Loop
    from unmask.training.optimizers import make_optimizers
    from unmask.training.parallel import GradientSum
    from unmask.training.position import Length, Position

    def make(model: Any, texts: Any, batch_tokens: int, optimizer: str = "adamw", **fields: Any) -> Loop:
        source = TextSource(texts, np.arange(len(texts)), model.vocabulary, MaskingSettings(), 64)
        rows: list[dict[str, Any]] = []
        defaults: dict[str, Any] = {
            "model": model,
            "stream": TrainingStream(source, batch_tokens, 0),
            "optimizers": make_optimizers(model.model, OptimizerSettings(), optimizer, 1e-3),
            "length": Length(steps=4),
            "lr_factor": lambda progress, end: 1.0,
            "mask_rate": lambda progress: 0.3,
            "micro_batch_tokens": batch_tokens // 2,
            "clip_norm": 1.0,
            "log_every": 2,
            "gradient_sum": GradientSum(model),
            "position": Position(),
            "on_row": rows.append,
            "after_step": lambda loop: None,
        }
        loop = Loop(**(defaults | fields))
        loop.rows = rows  # type: ignore[attr-defined]
        return loop

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; tests that use it are skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


# --- published schemas --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """Return what `docs/reference.py` defines."""
    return runpy.run_path(str(Path(__file__).parent.parent / "docs" / "reference.py"))


@pytest.fixture(scope="session")
def schemas(reference: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schemas that are published, by name."""
    return dict(reference["schemas"]())


@pytest.fixture(scope="session")
def fits_schema(schemas: dict[str, Any]) -> Callable[[str, Any], None]:
    """Return `check(name, document)`: a document has no keys but those of its schema, so that a new one is noticed."""
    import jsonschema

    def closed(schema: Any) -> Any:
        if isinstance(schema, list):
            return [closed(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        named = {"additionalProperties": False} if "properties" in schema else {}
        return {name: closed(item) for name, item in schema.items()} | named

    return lambda name, document: jsonschema.validate(document, closed(schemas[name]))
