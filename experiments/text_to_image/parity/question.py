"""Do Stable Diffusion's files give the same numbers here as in diffusers, and ours there?

Claims: on tiny random folders of versions 1, 2 and XL, in two spellings, text, U-Net, encoder and
decoder agree within 1e-6 in float64 and 1e-4 in float32, ten guided DDIM steps within 1e-5; folders
written here give the same there; tokens of thousands of texts are equal. Cost: 4 minutes on 2 CPU
cores.
    python -m experiments text_to_image.parity --peer VENV/bin/python

The peer's interpreter needs torch, diffusers and transformers, and nothing of this repository.
Without --peer only a folder of our own is written and read back. Texts and CLIP's merges come from
`ANSATZ_DATA`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess

import jax
import numpy as np

from experiments.text_to_image import _chain
from experiments.text_to_image.parity import ours
from library import claims, report, training
from library.data import sources
from library.storage import files
from research.text_to_image import tokens, weights
from research.text_to_image import training as diffusing

PEER = claims.baseline("diffusers and transformers on the same folder")
BACK = claims.theorem("a folder that is written and read is the same model")
FLOAT64, FLOAT32, SAMPLED = 1e-6, 1e-4, 1e-5
ODD = [
    "café CAFE\u0301 naïve Straße",
    "😀👩\u200d👧 ok👍🏽!",
    "it's we'll I'M don't 've",
    "123 4.5 ½ ² 10,000",
    "  a\t\tb\n\nc\u00a0d",
    "",
    "!",
    "日本語 한국어",
    "a<|endoftext|>b",
    "word " * 200,
]


@dataclasses.dataclass(frozen=True)
class Config:
    """The other interpreter, and how much is compared."""

    peer: str = ""  # a Python with torch, diffusers and transformers; empty: none
    num_texts: int = 2000  # lines of text whose tokens are compared
    run: training.RunOptions = training.RunOptions()


PRESETS = {"smoke": Config(num_texts=10), "default": Config(), "accelerator": Config()}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Has the peer make folders and run them, and does the same."""
    training.takes_only(config.run, "seed")
    result = _own_folder(out.path / "own", config.run.seed)
    if not config.peer:
        return result
    with jax.enable_x64(True):
        return result + _beside(config, out.path)


def _own_folder(folder: pathlib.Path, seed: int) -> claims.Result:
    made = _chain.build(_chain.SMALLEST, 8, ["a red circle"], 8)
    networks = ("unet", "text_encoder", "vae")
    outline = jax.eval_shape(lambda rng: diffusing.init(made, rng, networks), jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), outline)
    weights.save(folder, made, params)
    read, again = weights.load(folder)
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), params, again)
    leaves = jax.tree.leaves(same)
    changed = sum(not leaf for leaf in leaves) + (read != made)
    stated = claims.exactly("written and read: leaves changed", changed, 0, BACK)
    return claims.Result({"leaves": len(leaves)}, [stated])


def _beside(config: Config, place: pathlib.Path) -> claims.Result:
    texts = _texts(config.num_texts)
    tokenizers = _write_tokenizers(place)
    files.write_json(place / "texts.json", texts)
    _peer(config.peer, "make", place, place / "texts.json")
    theirs = np.load(place / "tokens.npz")
    wrong = sum(
        int(np.any(tokenizer.encode(texts) != theirs[name], axis=1).sum())
        for name, tokenizer in tokenizers.items()
    )
    result = claims.Result(
        {"num_texts": len(texts)}, [claims.exactly("texts with other tokens", wrong, 0, PEER)]
    )
    for name in ("sd1", "sd1_old", "sd2", "xl", "xl_old"):
        result += _folder(config.peer, place / name)
    return result


def _folder(peer: str, folder: pathlib.Path) -> claims.Result:
    """One folder: read here, run on both sides, written here, run there again."""
    name = folder.name
    file = folder.with_name(f"{name.removesuffix('_old')}.npz")  # old names, the same numbers
    if not file.exists():
        _peer(peer, "run", folder, file)
    given = np.load(file)
    made, params = weights.load(folder)
    worst = {}
    for kind, dtype in (("float64", np.float64), ("float32", np.float32)):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        found = ours.pieces(made, cast, given)
        worst[kind] = max(ours.gap(value, given[key]) for key, value in found.items())
    sampled = [
        ours.gap(ours.ddim(made, params, given, spacing), given[f"ddim_{spacing}"])
        for spacing in ("leading", "trailing")
    ]
    back = folder.with_name(f"{name}_back")
    weights.save(back, made, params)
    _peer(peer, "run", back, back.with_suffix(".npz"))
    again = np.load(back.with_suffix(".npz"))
    returned = max(ours.gap(again[key], given[key]) for key in ours.PIECES if key in given)
    stated = [
        claims.at_most(f"{name}: networks, float64", worst["float64"], FLOAT64, PEER),
        claims.at_most(f"{name}: networks, float32", worst["float32"], FLOAT32, PEER),
        claims.at_most(f"{name}: ten DDIM steps", max(sampled), SAMPLED, PEER),
        claims.at_most(f"{name}: written here, run there", returned, FLOAT64, PEER),
    ]
    return claims.Result({}, stated)


def _texts(num: int) -> list[str]:
    """Lines of the shared texts, and odd ones."""
    (file,) = sources.require("text", ["text/tinyshakespeare.txt"])
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    order = np.random.default_rng(0).permutation(len(lines))[:num]
    return [lines[index] for index in order] + ODD


def _write_tokenizers(place: pathlib.Path) -> dict[str, tokens.Tokenizer]:
    """CLIP's tokeniser as folders "end" and "mark", which pad by the end token and by "!"."""
    (file,) = sources.require("tokenizers/clip", ["tokenizers/clip/bpe_simple_vocab_16e6.txt.gz"])
    made = {"end": tokens.from_openai(file)}
    made["mark"] = dataclasses.replace(made["end"], pad="!")
    for name, tokenizer in made.items():
        (place / name).mkdir(exist_ok=True)
        tokens.write(place / name, tokenizer)
    return made


def _peer(python: str, *words) -> None:
    """Runs the peer's side.

    Raises:
        ValueError: if there is no such interpreter, or it fails; with its last line.
    """
    script = pathlib.Path(__file__).with_name("peer.py")
    try:
        done = subprocess.run(
            [python, str(script), *map(str, words)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ValueError(f"peer={python} cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(f"peer={python} failed: {last}")
