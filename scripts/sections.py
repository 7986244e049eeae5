"""Put a section into a page in place of the one of the same name; the others stay.

A page is parts that each begin with a line "## NAME" or "## NAME: more". So one part can be made anew where the
runs behind the others are no longer there: python -m scripts.sections PAGE.md PART.md
"""

import re
import sys
from pathlib import Path

from app.files import write_atomically


def with_section(page: str, part: str) -> str:
    """Return a page in which `part` stands where a part of that name stood, else at the end. Raises ValueError where
    the part does not begin with a heading of its own."""
    head, *parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    if not part.startswith("## "):
        raise ValueError(f"a section begins with '## NAME', not with {part[:20]!r}")
    places = [i for i, other in enumerate(parts) if name(other) == name(part)]
    if places:
        parts[places[0]] = part
    else:
        parts.append(part)
    return "\n\n".join(text.strip("\n") for text in (head, *parts)) + "\n"


def name(part: str) -> str:
    """Return what a section is called: its heading, up to a colon."""
    return part.partition("\n")[0].removeprefix("## ").partition(":")[0].strip()


def main() -> None:
    """Write the page anew."""
    page, part = map(Path, sys.argv[1:])
    write_atomically(page, with_section(page.read_text(), part.read_text()).encode())


if __name__ == "__main__":
    main()
