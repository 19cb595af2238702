"""Characters of text that are wrong: undecodable bytes, with a guess at their encoding, lone surrogates and control characters."""

from __future__ import annotations

import codecs
import re

from unmask.data.reading.errors import TextError
from unmask.errors import plural

ESCAPE = "unmask-escape"
"""Error handler for decoding: an undecodable byte becomes the lone surrogate U+DC00 + byte, to be reported later."""
_GUESSED = 2000
"""Characters on each side of an undecodable byte from which its encoding is guessed."""
_WIDE_ENCODINGS = (
    ("shift_jis", "[ぁ-ヿ一-鿿、。「」！？]"),
    ("euc-kr", "[가-힣]"),
    ("gb18030", "[一-鿿、。！，？：；“”]"),
)
_CYRILLIC = ("windows-1251", "koi8-r", "cp866")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Without tab, line feed, vertical tab, form feed and carriage return, which are white space.
CONTROLS = bytes(code for code in [*range(32), 127] if code not in range(9, 14))
_CONTROL = re.compile(f"[{re.escape(CONTROLS.decode('ascii'))}]")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escape)


def undecodable_error(
    text: str,
    what: str,
    source: str,
    line: int,
    *,
    whole_lines: bool,
    encoding: str | None = None,
    option: bool = False,
) -> TextError | None:
    """Return the error of an undecodable text, or ``None``.

    Args:
        text: the text.
        what: its name in the message, for example ``the field 'text'``.
        source: its file.
        line: the line where it begins.
        whole_lines: whether its lines are lines of the file, so that the message can name the exact line.
        encoding: the encoding that it was decoded from, by default UTF-8.
        option: whether --encoding applies to the file.
    """
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is None:
        return None
    code, guess = ord(found[0]), None
    if 0xDC00 <= code < 0xDD00:  # see ESCAPE
        name = encoding or "UTF-8"
        reason, cause = f"not {name}", f"byte 0x{code - 0xDC00:02x} is not {name}"
        begin = max(0, text.rfind("\n", 0, found.start()) + 1, found.start() - _GUESSED)
        guess = guess_encoding(_bytes_of(text[begin : found.start() + _GUESSED]))
        hint = f"it may be {guess}: " if guess and encoding is None else ""
        hint += (
            f"give --encoding {guess or 'NAME'}"
            if option
            else f"convert the file with iconv -f {guess or 'NAME'} -t UTF-8"
        )
    else:
        reason, cause = "lone surrogate", f"half of a surrogate pair (\\u{code:04x}) is not text"
        hint = "remove it"
    place, line = _place(text, found.start(), what, line, whole_lines)
    settable = guess if option and encoding is None else None
    return TextError(reason, f"{cause} ({place}); {hint}", path=source, line=line, encoding=settable)


def _bytes_of(text: str) -> bytes:
    """Return the bytes of a text in UTF-8, those that could not be decoded as they were."""
    return b"".join(
        bytes([ord(found) - 0xDC00]) if 0xDC00 <= ord(found) < 0xDD00 else found.encode("utf-8", "replace")
        for found in text
    )


def guess_encoding(data: bytes) -> str | None:
    """Guess the encoding of a text that is not UTF-8 from the letters that it gives, or return ``None``."""
    high = re.findall(b"[\x80-\xff]+", data)
    size = sum(map(len, high))
    for encoding, letters in _WIDE_ENCODINGS if 3 * size >= len(data) else ():
        try:
            found = codecs.getincrementaldecoder(encoding)().decode(data)
        except UnicodeDecodeError:
            continue
        found = re.sub(r"[\x00-\x7f]+", "", found)
        if found and len(re.findall(letters, found)) >= 0.9 * len(found):
            return encoding
    # Words of Cyrillic letters are runs of high bytes; Latin text has single ones.
    if size > 2.5 * len(high):
        best = max(
            _CYRILLIC, key=lambda encoding: len(re.findall("[а-яё]", data.decode(encoding, "replace")))
        )
        cyrillic = len(re.findall("[А-Яа-яЁё]", data.decode(best, "replace")))
        return best if cyrillic >= 0.8 * size else None
    return "windows-1252" if high and not re.search(b"[\x81\x8d\x8f\x90\x9d]", data) else None


def without_controls(text: str, source: str, line: int, *, whole_lines: bool) -> tuple[str, list[TextError]]:
    """Return a text without NUL characters, and the errors for its control characters.

    NUL is removed, since many libraries end strings at it; other control characters are kept.
    """
    data = text.encode("utf-8")
    controls = len(data) - len(data.translate(None, CONTROLS))
    if not controls:
        return text, []
    errors, nuls = [], text.count("\0")
    others = controls - nuls
    if nuls:
        place, number = _place(text, text.index("\0"), "the text", line, whole_lines)
        what = f"{plural(nuls, 'NUL byte')} in a document, the first {place}, removed"
        errors.append(TextError("NUL bytes", what, path=source, line=number))
        text = text.replace("\0", "")
    if others and (found := _CONTROL.search(text)):
        place, number = _place(text, found.start(), "the text", line, whole_lines)
        what = f"{plural(others, 'control character')} in a document, the first U+{ord(found[0]):04X} {place}, kept"
        errors.append(TextError("control characters", what, path=source, line=number))
    return text, errors


def _place(text: str, at: int, what: str, line: int, whole_lines: bool) -> tuple[str, int]:
    """Return the position of a character as text, in bytes, and its line in the file."""
    begin = text.rfind("\n", 0, at) + 1 if whole_lines else 0
    size = len(text[begin:at].encode("utf-8", "replace"))
    number = line + text.count("\n", 0, at) if whole_lines else line
    return f"after {plural(size, 'byte')} of {'the line' if whole_lines else what}", number
