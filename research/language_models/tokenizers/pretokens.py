"""GPT-2's cut of a text into words, numbers, marks and runs of space, before any merge.

Radford et al. 2019 write it as the pattern

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

whose classes Python's `re` does not know. They are spelled out here by code point, from
`unicodedata`, so that a letter is what the Unicode version of this Python calls one. Everything
assigned later counts as a mark.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

# The Unicode property White_Space. Python's own \s holds U+001C to U+001F too.
WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def split(text: str) -> list[str]:
    """The pre-tokens of a text, in order; joined they are the text again.

    Args:
        text: any string; lone surrogates count as marks.
    """
    return _pattern().findall(text)


@functools.cache
def _pattern() -> re.Pattern:
    letter, number = character_class("L"), character_class("N")
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+"
        f"| ?[^{WHITE_SPACE}{letter}{number}]+"
        f"|[{WHITE_SPACE}]+(?![^{WHITE_SPACE}])|[{WHITE_SPACE}]+"
    )


@functools.cache
def character_class(category: str) -> str:
    """The inside of a character class: all code points whose category starts so, as ranges.

    Args:
        category: first letter of Unicode's general category, "L" for letters, "N" for numbers.
    """
    ranges, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == category
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)
