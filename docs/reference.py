"""Put the pages of the site together: a copy of docs/, and the reference, made from the code.

python docs/reference.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent


def main(out: Path) -> None:
    """Write all pages of the site into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in out.rglob("*.md"):
        page.write_text(titled_links(page), encoding="utf-8")


def titled_links(page: Path) -> str:
    """Return a page in which a link whose text is a file name has the title of that page instead.

    File names are what a reader of the repository wants to see; on the site they are no names.
    """

    def titled(link: re.Match[str]) -> str:
        target = page.parent / link[1]
        title = target.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}]({link[1]}{link[2]})"

    text = page.read_text(encoding="utf-8")
    return re.sub(r"\[(?:[\w-]+/)*[\w-]+\.md\]\(((?:[\w-]+/)*[\w-]+\.md)((?:#[\w-]*)?)\)", titled, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
