"""What a plain text file holds (text, HTML, XML or source code), and the text of HTML and XML without their tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unmask.data.reading.characters import undecodable_error
from unmask.data.reading.errors import TextError
from unmask.data.reading.files import RECORD_LIMIT, name_suffix
from unmask.errors import MissingExtra

_HTML, _XML = {".html", ".htm", ".xhtml", ".mhtml"}, {".xml", ".svg", ".rss", ".atom", ".tei", ".nxml"}
_CODE = set(
    ".py .pyi .js .mjs .ts .tsx .jsx .java .kt .scala .c .h .cc .cpp .hpp .cs .go .rs .rb .php .swift .m .r .jl .lua .pl "
    ".sh .bash .ps1 .sql .css .scss .tex .yaml .yml .toml .ini .cfg".split()
)
_HTML_BEGINS = ("<!doctype html", "<html")
# Elements of HTML whose text is not shown, and those that do not break a line.
_HIDDEN = {"script", "style", "template", "noscript", "svg"}
_INLINE = set(
    "a abbr acronym b bdi bdo big br cite code data del dfn em font i ins kbd label mark q s samp small span strike strong sub "
    "sup td th time tt u var wbr".split()
)
_PREFORMATTED, _CELLS = {"pre", "textarea"}, {"td", "th"}


def content_of(path: Path, begin: str) -> str:
    """Return ``HTML``, ``XML``, ``source code`` or ``text``, by the name of a file and the beginning of its text."""
    suffix, head = name_suffix(path), begin[:1000].lstrip().lower()
    if suffix in _HTML or head.startswith(_HTML_BEGINS):
        return "HTML"
    if suffix in _XML or head.startswith("<?xml"):
        return "HTML" if "<!doctype html" in head or "<html" in head else "XML"
    return "source code" if suffix in _CODE else "text"


def plain_text(chunks: Iterable[str], content: str, source: str) -> str:
    """Return the text of an HTML or XML file, a line for each block of it.

    Raises:
        TextError: the file is too long, or its XML is broken.
        MissingExtra: lxml is not installed.
    """
    try:
        from lxml import etree
    except ImportError:
        raise MissingExtra("lxml", "markup", "--markup strip") from None
    parts, size = [], 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > RECORD_LIMIT:
            what = f"{content} of more than {RECORD_LIMIT:,} characters, which is too long to strip; split the file"
            raise TextError("record too long", what, path=source)
    text = "".join(parts).replace("\0", "")
    if undecodable := undecodable_error(text, "the text", source, 1, whole_lines=True, option=True):
        raise undecodable
    if not text.strip():
        return ""
    if content == "HTML":
        parser: Any = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    else:
        parser = etree.XMLParser(
            encoding="utf-8",
            resolve_entities="internal",
            no_network=True,
            remove_comments=True,
            remove_pis=True,
        )
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except etree.XMLSyntaxError as error:
        what = f"broken {content} ({error.msg}); repair it, or read it with its tags (--markup keep)"
        raise TextError(f"broken {content}", what, path=source, line=error.lineno) from None
    walk = etree.iterwalk(root, events=("start", "end")) if root is not None else ()
    lines = "".join(_pieces(walk, content == "HTML")).split("\n")
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


def _pieces(walk: Iterable[tuple[str, Any]], is_html: bool) -> Iterator[str]:
    """Yield the text of elements, with a line feed where a block begins or ends.

    An element is a block by its name in HTML. In XML it is one unless its parent has text of its own.
    """
    hidden = preformatted = 0
    mixed = [False]  # of each open element: whether it has text of its own
    for event, element in walk:
        name, begins = element.tag.rpartition("}")[2].lower(), event == "start"
        change = 1 if begins else -1
        hidden += change * (is_html and name in _HIDDEN)
        preformatted += change * (is_html and name in _PREFORMATTED)
        if not begins:
            mixed.pop()
        if name == "br" or not (name in _INLINE if is_html else mixed[-1]):
            yield "\n"
        elif is_html and name in _CELLS:
            yield " "
        if begins:
            mixed.append(not is_html and _has_text(element))
        text = element.text if begins else element.tail
        if text and not hidden:
            yield text if preformatted else text.replace("\n", " ")


def _has_text(element: Any) -> bool:
    return any(text and not text.isspace() for text in (element.text, *(child.tail for child in element)))
