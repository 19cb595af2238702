"""Text by URL."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from unmask.config.settings import DocumentSettings
from unmask.data.hub import offline_mode
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.inputs import describe_inputs
from unmask.errors import DataError
from unmask.remote import files as remote_files

LINES = [f"The {word} river is wide and slow." for word in ("old", "new", "deep", "long", "cold")]


def texts(*inputs: str, **settings: Any) -> list[str]:
    return [document.text for document in DocumentReader(inputs, DocumentSettings(**settings))]


def jsonl(lines: list[str]) -> bytes:
    return "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()


def zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


def test_single_objects_folders_and_globs(store: Any) -> None:
    store.put("text/a.txt", "\n".join(LINES[:2]))
    store.put("text/b.jsonl.zst", zstd(jsonl(LINES[2:4])))
    store.put("text/deep/c.csv.gz", gzip.compress(f"text\n{LINES[4]}\n".encode()))
    store.put("text/.hidden.txt", "hidden")
    store.put("text/picture.png", b"\x89PNG\0\0\0")
    assert texts(f"{store.bucket}/text/a.txt") == LINES[:2]
    assert texts(f"{store.bucket}/text") == texts(f"{store.bucket}/text/") == LINES
    assert texts(f"{store.bucket}/text/*.jsonl.zst") == LINES[2:4]
    assert texts(f"{store.bucket}/text/**/*.csv.gz") == LINES[4:]
    assert texts(f"{store.bucket}/text/de*") == LINES[4:]


def test_parquet(store: Any) -> None:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.table({"text": LINES}), sink)
    store.put("a.parquet", sink.getvalue())
    assert texts(f"{store.bucket}/a.parquet") == LINES


def test_memory_and_files(tmp_path: Any) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/text/a.txt", "\n".join(LINES).encode())
    (tmp_path / "b.txt").write_text(LINES[0])
    assert texts("memory://text") == texts("memory://text/*.txt") == texts("memory:///text/a.txt") == LINES
    assert texts(f"file://{tmp_path}/b.txt") == texts(f"file://{tmp_path}") == LINES[:1]


def test_inputs_are_listed_once(store: Any, run: Callable[..., Any], tmp_path: Any, checkpoint: Any) -> None:
    for number, line in enumerate(LINES * 3):
        store.put(f"text/{number:03}.txt", line)
    code, _, error = run(
        "prepare", f"{store.bucket}/text", "--model", checkpoint("bert"), "-o", tmp_path / "shards"
    )
    assert code == 0, error
    assert store.listings() == 1
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert manifest["documents"] == 15
    assert manifest["inputs"][0]["files"] == 15


def test_the_fingerprint_follows_the_content(store: Any) -> None:
    url = store.put("text/a.txt", "abc")
    before = describe_inputs([url])
    assert describe_inputs([url]) == before
    store.put("text/a.txt", "abd")
    remote_files.list_files.cache_clear()
    assert describe_inputs([url]) != before


@pytest.fixture
def big(store: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """An object of several blocks, and its lines."""
    monkeypatch.setattr(remote_files, "BLOCK", 1 << 16)
    lines = [f"{number} {LINES[number % 5]}" for number in range(20_000)]
    return store.put("big/a.txt", "\n".join(lines)), lines


def test_a_connection_that_is_cut_is_taken_up_where_it_was(store: Any, big: tuple[str, list[str]]) -> None:
    fault = store.fault(method="GET", path="big/a.txt", cut=1000, times=2)
    store.fault(method="GET", path="big/a.txt", cut=70_000, times=2, after=1)
    assert texts(big[0]) == big[1]
    assert fault.times == 0
    begins = [int(sent.removeprefix("bytes=").split("-")[0]) for _, path, sent in store.requests if sent]
    assert begins == sorted(begins)  # no request goes back to the beginning
    assert len(begins) == len(set(begins)) + 4


def test_a_server_that_is_busy_for_a_while_is_asked_again(store: Any, big: tuple[str, list[str]]) -> None:
    store.fault(error="SlowDown", times=2)
    store.fault(method="GET", path="a.txt", delay=0.3, times=2)
    assert texts(big[0]) == big[1]


def test_memory_is_bounded(store: Any, big: tuple[str, list[str]]) -> None:
    texts(big[0])
    ranges = [sent.removeprefix("bytes=").split("-") for _, _, sent in store.requests if sent]
    size = max(int(end) - int(begin) for begin, end in ranges)
    assert size <= (1 << 16) + (1 << 18)  # a block, and what is read at once


def test_an_object_that_changes_is_an_error(store: Any, big: tuple[str, list[str]]) -> None:
    reader = iter(DocumentReader([big[0]], DocumentSettings(documents="line", skip_unreadable=True)))
    next(reader)
    store.put("big/a.txt", b"other text\n" * 100_000)
    with pytest.raises(DataError, match=r"big/a.txt: the object changed since it was listed"):
        list(reader)


def test_an_object_that_changed_between_listing_and_reading(store: Any) -> None:
    url = store.put("a.txt", "one\ntwo")
    reader = DocumentReader([url], DocumentSettings())
    store.put("a.txt", "one\nthree")
    with pytest.raises(DataError, match="changed since it was listed"):
        list(reader)


FAULTS = [
    ("ExpiredToken", "the credentials have expired (ExpiredToken)"),
    ("InvalidAccessKeyId", "the credentials are not accepted (InvalidAccessKeyId)"),
    ("SignatureDoesNotMatch", "the credentials are not accepted (SignatureDoesNotMatch)"),
    ("AccessDenied", "access denied"),
    ("ServiceUnavailable", "the server is overloaded or out of order"),
    ("SlowDown", "the server is overloaded or out of order"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("error", "said"), FAULTS)
def test_each_failure_is_one_line_that_names_the_object(
    store: Any, run: Callable[..., Any], tmp_path: Any, checkpoint: Any, error: str, said: str, method: str
) -> None:
    """Whether listing or opening fails."""
    url = store.put("text/a.txt", "\n".join(LINES))
    store.fault(error=error, method=method)
    out = tmp_path / "shards"
    code, _, shown = run("prepare", url, "--model", checkpoint("bert"), "-o", out)
    assert code == 3
    assert shown.count("\n") == 1
    assert f"{url}: cannot be read: " in shown
    if method == "GET":  # the answer to HEAD has no text, so that the reason may be unknown
        assert said in shown
    assert not out.exists()


def test_a_cut_that_lasts(
    store: Any, run: Callable[..., Any], big: tuple[str, list[str]], tmp_path: Any, checkpoint: Any
) -> None:
    store.fault(method="GET", path="a.txt", cut=1000, after=3)
    code, _, shown = run(
        "prepare", big[0], "--model", checkpoint("bert"), "-o", tmp_path / "shards", "--skip-unreadable", "-q"
    )
    assert (code, shown.count("\n")) == (3, 1)
    assert f"{big[0]}: cannot be read: no connection to the server, or it was cut" in shown
    assert not (tmp_path / "shards").exists()


def test_what_is_not_there(store: Any, run: Callable[..., Any], checkpoint: Any) -> None:
    for url, said in (
        (f"{store.bucket}/absent", "no such object or folder"),
        (f"{store.bucket}/absent/*.txt", "the glob matches no object"),
        ("s3://no-such-bucket-here/a.txt", "there is no such bucket"),
        ("s3://", "no bucket is named"),
        ("ftp://host/a.txt", "URLs of ftp:// cannot be used"),
    ):
        code, _, shown = run("masks", url, "--tokenizer", checkpoint("bert"))
        assert code in (2, 3), shown
        assert url in shown
        assert said in shown


def test_no_server(
    store: Any, run: Callable[..., Any], checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    code, _, shown = run("masks", f"{store.bucket}/a.txt", "--tokenizer", checkpoint("bert"))
    assert code == 3
    assert f"{store.bucket}/a.txt: cannot be read: no connection to the server" in shown


def test_no_credentials(
    store: Any, run: Callable[..., Any], checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    S3FileSystem.clear_instance_cache()
    code, _, shown = run("masks", f"{store.bucket}/a.txt", "--tokenizer", checkpoint("bert"))
    assert (code, shown.count("\n")) == (3, 1)
    assert f"{store.bucket}/a.txt: cannot be read: no credentials were found" in shown


def test_a_url_holds_no_secret(run: Callable[..., Any], checkpoint: Any) -> None:
    urls = {
        "s3://user:hidden-password@bucket/a.txt": "s3://…@bucket/a.txt: ",
        "s3://user:hidden@hidden-password@bucket/a@b.txt": "s3://…@bucket/a@b.txt: ",
        "az://box/a.txt?sig=hidden-password": "az://box/a.txt?…: ",
    }
    for url, place in urls.items():
        code, out, shown = run("masks", url, "--tokenizer", checkpoint("bert"))
        assert code == 2
        assert f"{place}a URL takes no credentials" in shown
        assert "hidden-password" not in out + shown


def test_without_the_extra(run: Callable[..., Any], checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    code, _, shown = run("masks", "gs://bucket/a.txt", "--tokenizer", checkpoint("bert"))
    assert (code, shown) == (2, "error: gs:// needs the package 'gcsfs': pip install 'unmask[storage]'\n")


def test_offline_no_request_is_made(store: Any, run: Callable[..., Any], checkpoint: Any) -> None:
    url = store.put("a.txt", "\n".join(LINES))
    code, _, shown = run("masks", url, "--tokenizer", checkpoint("bert"), "--offline")
    assert code == 3
    assert f"{url}: offline" in shown
    with pytest.raises(DataError, match="offline"):
        DocumentReader([url], DocumentSettings(offline=True))
    with offline_mode(), pytest.raises(DataError, match="offline"):
        describe_inputs([url])
    assert store.requests == []


def test_memory_and_files_may_be_read_offline(tmp_path: Any) -> None:
    (tmp_path / "b.txt").write_text(LINES[0])
    assert texts(f"file://{tmp_path}/b.txt", offline=True) == LINES[:1]


def test_records_and_pairs(store: Any, run: Callable[..., Any], checkpoint: Any, tmp_path: Any) -> None:
    url = store.put("lines.txt", "\n".join(LINES))
    code, _, error = run("score", checkpoint("bert"), url, "--json")
    assert code == 0, error
    store.put("pairs/a.tsv", "good\tbad\nThe cats sleep.\tThe cats sleeps.\n")
    code, _, error = run("pairs", checkpoint("bert"), "--data", f"{store.bucket}/pairs", "--json")
    assert code == 0, error
    code, _, error = run("score", checkpoint("bert"), f"{store.bucket}/pairs")
    assert (code, "expected a file" in error) == (3, True)


def test_python(store: Any, checkpoint: Any) -> None:
    import unmask

    url = store.put("text/a.txt", "\n".join(LINES * 10))
    assert unmask.check(url, progress=False).to_dict()["read"]["documents"] == 50
    store.put("text/b.txt", "\n".join(LINES * 10))
    assert unmask.check([f"{store.bucket}/text"], progress=False).to_dict()["read"]["documents"] == 100


def test_a_path_made_of_a_url_is_refused() -> None:
    from pathlib import Path

    with pytest.raises(DataError, match="as a string"):
        texts(Path("s3://bucket/a.txt"))  # type: ignore[arg-type]
