"""Files of the shards of a prepared corpus, see :mod:`unmask.data.corpus`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmask.storage import sha256

_SHARD_TOKENS = 1 << 24


@dataclass
class ShardWriter:
    """Collects documents and writes full shards; ``shards`` describes those that are written."""

    folder: Path
    dtype: np.dtype[Any]
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    _arrays: list[np.ndarray] = field(default_factory=list)
    _keys: list[int] = field(default_factory=list)
    _held: int = 0

    def add(self, texts: list[str], arrays: list[np.ndarray], keys: list[int]) -> None:
        """Add documents: their texts, token ids and hashes."""
        for text, array, key in zip(texts, arrays, keys, strict=True):
            self._arrays.append(array.astype(self.dtype))
            self._keys.append(key)
            self._held += len(array)
            self.documents += 1
            self.tokens += len(array)
            self.bytes += len(text.encode("utf-8", "surrogatepass"))
            if self._held >= _SHARD_TOKENS:
                self._flush()

    def close(self) -> None:
        """Write the last shard."""
        if self._arrays:
            self._flush()

    def _flush(self) -> None:
        name = f"shard-{len(self.shards):05d}"
        parts = {
            "tokens": np.concatenate(self._arrays),
            "lengths": np.array([len(array) for array in self._arrays], dtype=np.int64),
            "keys": np.array(self._keys, dtype=np.uint64),
        }
        sums = {}
        for part, array in parts.items():
            path = self.folder / _file(name, part)
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            sums[part] = sha256(path)
        self.shards.append(
            {"name": name, "documents": len(self._keys), "tokens": len(parts["tokens"]), "sha256": sums}
        )
        self._arrays, self._keys, self._held = [], [], 0


def load_part(folder: Path, shard: str, part: str, mmap_mode: Any = None) -> np.ndarray:
    """Return an array of a shard: its ``tokens``, ``lengths`` or ``keys``."""
    array: np.ndarray = np.load(folder / _file(shard, part), mmap_mode=mmap_mode, allow_pickle=False)
    return array


def _file(shard: str, part: str) -> str:
    return f"{shard}.{part}.npy"
