"""Kinds of problems that data checks report, with severities and descriptions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tl_lightning.utils import text

__all__ = ["BROKEN", "ERROR", "KINDS", "NOTE", "PAIRS", "WARNING", "Kind", "printable"]

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        level: ``error``: training would stop; ``warning``: it would run, but the results may
            suffer; ``note``: for information.
        text: Description, and how training handles it.
    """

    level: str
    text: str


#: Problems of single files. The errors are exactly those that make a run stop.
KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(ERROR, "cannot be opened"),
    "empty": Kind(ERROR, "empty (0 bytes)"),
    "not_an_image": Kind(ERROR, "not an image, despite its suffix"),
    "truncated": Kind(ERROR, "truncated or corrupt: cannot be decoded completely"),
    "enormous": Kind(ERROR, "too many pixels: rejected as a decompression bomb"),
    "bad_name": Kind(ERROR, "name is not valid UTF-8, which reports do not support; rename it"),
    "no_file": Kind(WARNING, "named like an image but not a file: ignored"),
    "ignored_format": Kind(WARNING, "image with an unsupported suffix: ignored"),
    "outside": Kind(WARNING, "image outside of a class folder, or in a subfolder of one: ignored"),
    "cmyk": Kind(WARNING, "CMYK: converted without a colour profile, colours may be wrong"),
    "sixteen_bit": Kind(
        WARNING,
        "more than 8 bits: grey is scaled by data.max_value, of colours the upper 8 are used",
    ),
    "animated": Kind(WARNING, "several frames: only the first is used"),
    "flat": Kind(WARNING, "constant, or nearly so (values differ by at most 16 of 255)"),
    "tiny": Kind(WARNING, "shorter side below 32 pixels"),
    "unlisted": Kind(NOTE, "image in a class folder but in no split: not used"),
    "exif_rotated": Kind(NOTE, "rotated by EXIF: training applies the rotation"),
    "metadata": Kind(NOTE, "EXIF, colour profile or text cannot be read: ignored"),
    "suffix_lies": Kind(NOTE, "suffix does not match the format: loaded anyway"),
    "transparent": Kind(NOTE, "transparency: shown on white"),
    "grayscale": Kind(NOTE, "grayscale: converted to three channels"),
}

#: Problems that prevent decoding; ``data.on_error=skip`` leaves out a few such files.
BROKEN = ("unreadable", "empty", "not_an_image", "truncated", "enormous")

#: Kinds of duplicates, most severe first.
PAIRS: Mapping[str, Kind] = {
    "two_classes": Kind(WARNING, "same image in two classes: one label is wrong"),
    "across_splits": Kind(WARNING, "same image in two splits of a domain: leakage"),
    "across_domains": Kind(WARNING, "same image in both domains: leakage"),
    "within": Kind(NOTE, "same image several times in a split and class"),
}


def printable(path: Path | str) -> str:
    r"""Return a path as text that is valid UTF-8, with undecodable bytes and controls escaped.

    >>> printable("caf\udce9.jpg"), printable("a\x1b[31m.jpg")
    ('caf\\xe9.jpg', 'a\\x1b[31m.jpg')
    """
    return text.printable(os.fsencode(path).decode("utf-8", "backslashreplace"))
