"""GPT-2's cut of a text, against the library's and by hand."""

import unicodedata

import numpy as np
from tokenizers import pre_tokenizers

from research.language_models import pretokens
from tests.research.language_models.corpora import AWKWARD


def test_pretokens_are_those_of_the_library():
    """Code points that this Python and the library both know, in six surroundings each."""
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(0x3000), rng.choice(0x20000, 4000, replace=False)])
    known = [chr(c) for c in codes if not 0xD800 <= c < 0xE000 and _is_old(chr(c))]
    sample = AWKWARD + "".join(f"{c}a {c}{c}1 {c}\n{c}" for c in known)
    theirs = [sample[i:j] for _, (i, j) in library.pre_tokenize_str(sample)]
    assert pretokens.split(sample) == theirs
    assert "".join(pretokens.split(sample)) == sample


def _is_old(character):
    """Whether Unicode 3.2 had the character already in its present category."""
    old = unicodedata.ucd_3_2_0.category(character)
    return old != "Cn" and old[0] == unicodedata.category(character)[0]


def test_the_cut_by_hand():
    text = "I'll  pay $3.50, won't I?\n\n ok"
    assert pretokens.split(text) == [
        "I", "'ll", " ", " pay", " $", "3", ".", "50", ",", " won", "'t", " I", "?", "\n\n", " ok",
    ]  # fmt: skip
    assert pretokens.split("") == []
