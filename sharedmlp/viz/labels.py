"""Text in pictures as it was given: any script, and no formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from unicodedata import east_asian_width

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

_LONGEST = 28  # characters of a name beside an axis


def label_style(texts: Iterable[str]) -> dict[str, Any]:
    """Return the properties of matplotlib's `Text` with which texts appear as they are.

    A `$` or `_` begins no formula, and a character that matplotlib's font lacks is taken from an
    installed font that has it, such as Noto Sans CJK. If no font has it, a box stands for it.

    Args:
        texts: All that is drawn with these properties.
    """
    families = dict.fromkeys(map(_find_family, sorted(set("".join(texts)))))
    return {"parse_math": False, "fontfamily": ["sans-serif", *filter(None, families)]}


def axis_names(names: Sequence[str]) -> list[str]:
    """Return names in one line each that leave room for the picture beside them.

    One that is cut, or has a character that no installed font has, is told by its number.
    """
    shown = []
    for number, name in enumerate(names):
        line = " ".join(name.split())
        if len(line) > _LONGEST:
            shown.append(f"{number}: {line[: _LONGEST - 4]}\N{HORIZONTAL ELLIPSIS}")
        else:
            shown.append(line if all(map(_is_drawn, line)) else f"{number}: {line}")
    return shown


def text_width(text: str) -> int:
    """Return about how wide a text is, in Latin letters."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _is_drawn(character: str) -> bool:
    return _draws(_default_font(), character) or _find_family(character) is not None


@cache
def _find_family(character: str) -> str | None:
    """Return the family that draws a character if the default one does not; None if none does."""
    if not character.isprintable() or _draws(_default_font(), character):
        return None
    # Upright and regular ones before bold and slanted ones of the same family.
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style, str(font.weight) != "400"))
    for font in fonts:
        if not font.name.startswith("Last Resort") and _draws(font.fname, character):
            return str(font.name)
    return None


def _default_font() -> str:
    return findfont(FontProperties(family=["sans-serif"]))


@cache
def _draws(path: str, character: str) -> bool:
    try:
        font = get_font(path)
        if not font.get_char_index(ord(character)):
            return False
        font.set_size(10, 72)
        font.load_char(ord(character))
    except (OSError, RuntimeError):  # a font of bitmaps, such as those of colored emoji
        return False
    return True
