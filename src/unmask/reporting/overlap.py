"""Held-out text that occurs in the training text, in a sentence."""

from __future__ import annotations

from unmask.errors import plural
from unmask.storage import JsonDict

_NAMES = {"heldout": "held-out text", "general": "general text"}


def overlap_text(name: str, found: JsonDict) -> str | None:
    """Return what to say of an entry of ``overlap`` in ``run.json``; ``None`` where nothing occurs in training text."""
    same, near = found["same"], found["near"]
    if not same + near:
        return None
    parts = [f"{same:,} as a whole"] if same else []
    parts += [f"{near:,} in at least half of their runs of {found['run']} tokens"] if near else []
    where = "training or replay text" if found.get("replay", True) else "training text"  # not in earlier runs
    # Of a text that was split off there is no file.
    how = "" if found.get("split_off") else ". 'unmask check TEXT --test PATH' names them"
    return (
        f"{same + near:,} of {plural(found['documents'], 'document')} of the {_NAMES[name]} "
        f"{'occurs' if same + near == 1 else 'occur'} in the {where} ({', '.join(parts)}), so the metrics on it are better "
        f"than on new text{how}"
    )
