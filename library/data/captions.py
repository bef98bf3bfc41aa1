"""Captions: sentences for the classes of labelled sets, and a user's own from a table.

captions.of_classes(captions.DIGITS, labels)      # "a handwritten three", "the digit 3", ...
captions.read("captions.csv", "photos")           # {"photos/cat.png": "a cat on a mat", ...}
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib

import numpy as np

from library.data.sets import cifar10
from library.storage import files


@dataclasses.dataclass(frozen=True)
class Templates:
    """Sentences about a class.

    Attributes:
        names: of the classes, by label.
        forms: sentences with {name}, {label} or {article} ("a" or "an") in them.
    """

    names: tuple[str, ...]
    forms: tuple[str, ...]

    def sentence(self, label: int, form: int) -> str:
        """The sentence of a label in one form."""
        name = self.names[label]
        article = "an" if name[0] in "aeiou" else "a"
        return self.forms[form].format(name=name, label=label, article=article)


DIGITS = Templates(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("a handwritten {name}", "the digit {label}", "{article} {name}", "the number {name} by hand"),
)
CIFAR10 = Templates(
    cifar10.CLASSES,
    ("a photo of {article} {name}", "{article} {name}", "a small picture of {article} {name}"),
)


def of_classes(templates: Templates, labels: np.ndarray, first_index: int = 0) -> np.ndarray:
    """A sentence for each label; example i of the set takes form i modulo their number.

    Args:
        templates: e.g. `DIGITS`.
        labels: [N] int.
        first_index: of the first label in its set.
    Returns:
        [N] str.
    Raises:
        ValueError: for labels that have no name.
    """
    labels, num = np.asarray(labels), len(templates.names)
    wrong = labels[(labels < 0) | (labels >= num)]
    if wrong.size:
        raise ValueError(f"label {wrong.reshape(-1)[0]}: expected 0 to {num - 1}")
    forms = (first_index + np.arange(len(labels))) % len(templates.forms)
    return np.asarray([templates.sentence(int(i), int(j)) for i, j in zip(labels, forms)], object)


def read(table: str, folder: str) -> dict[str, str]:
    """The captions of image files, in the order of the table.

    Args:
        table: a .csv file in UTF-8 with a header that has the columns "file" and "caption".
        folder: that the files' names are relative to.
    Returns:
        Path of each image file: its caption, without blanks around it.
    Raises:
        FileNotFoundError: if the table is not there, or names a file that is not, with its line.
        ValueError: for a table without these columns or rows, a row of more cells, an empty
            caption, a file named twice or outside the folder, or text that is no UTF-8.
    """
    place, base = files.local(table, "captions"), files.local(folder, "images")
    if not place.is_file():
        raise FileNotFoundError(f"{place} not found: expected a table of captions")
    try:
        with open(place, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{place} cannot be read as .csv: {error}") from None
    if not rows or not {"file", "caption"} <= rows[0][1].keys():
        columns = ", ".join(reader.fieldnames) if rows else "no row"
        raise ValueError(f"{place} has {columns}: expected columns file, caption, and rows")
    found: dict[str, str] = {}
    for line, row in rows:
        if any(cell.strip() for cell in row.get(None, ())):  # what the header has no column for
            raise ValueError(
                f"{place}, line {line}: more cells than the {len(reader.fieldnames)} columns: "
                "expected quotes around a caption with commas"
            )
        name, words = (row["file"] or "").strip(), (row["caption"] or "").strip()
        path = _inside(base, name, f"{place}, line {line}")
        if not words:
            raise ValueError(f"{place}, line {line}: {name} has no caption")
        if str(path) in found:
            raise ValueError(f"{place}, line {line}: {name} is named twice")
        found[str(path)] = words
    return found


def _inside(base: pathlib.Path, name: str, where: str) -> pathlib.Path:
    path = base / name
    if not name or not path.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{where}: {name!r} is no file in {base}")
    if not path.is_file():
        raise FileNotFoundError(f"{where}: {path} not found")
    return path
