"""The kinds of problem that a check finds, how grave each is, and what it means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BROKEN", "ERROR", "KINDS", "NOTE", "PAIRS", "WARNING", "Kind", "printable"]

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        level: ``error``: training would stop; ``warning``: it would run, and the result may
            suffer; ``note``: good to know.
        words: What it is, and what training makes of it.
    """

    level: str
    words: str


#: Of single files. The errors are exactly what a run refuses or stops at.
KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(ERROR, "cannot be opened"),
    "empty": Kind(ERROR, "0 bytes"),
    "not_a_picture": Kind(ERROR, "no picture, whatever the suffix says"),
    "truncated": Kind(ERROR, "truncated or corrupt: cannot be decoded to the end"),
    "enormous": Kind(ERROR, "too many pixels: refused as a decompression bomb"),
    "bad_name": Kind(ERROR, "name is not UTF-8: no report can be written of it; rename"),
    "no_file": Kind(WARNING, "named like a picture but no file: ignored"),
    "ignored_format": Kind(WARNING, "picture of a suffix that is not read: ignored"),
    "outside": Kind(WARNING, "picture outside a class folder, or below one: ignored"),
    "cmyk": Kind(WARNING, "CMYK: converted without a colour profile, colours may be off"),
    "sixteen_bit": Kind(WARNING, "more than 8 bits a channel: only the upper 8 are used"),
    "animated": Kind(WARNING, "more than one frame: only the first is used"),
    "tiny": Kind(WARNING, "shorter side below 32 pixels"),
    "unlisted": Kind(NOTE, "picture in a class folder but in no split: not used"),
    "exif_rotated": Kind(NOTE, "turned by EXIF: training turns it as a viewer does"),
    "suffix_lies": Kind(NOTE, "suffix of another format: read all the same"),
    "transparent": Kind(NOTE, "transparency: dropped, hidden colours show"),
    "grayscale": Kind(NOTE, "grayscale: repeated to three channels"),
}

#: What keeps one file from being decoded; ``data.on_error=skip`` leaves a few such files out.
BROKEN = ("unreadable", "empty", "not_a_picture", "truncated", "enormous")

#: Of pictures that are one and the same, gravest first.
PAIRS: Mapping[str, Kind] = {
    "two_classes": Kind(WARNING, "one picture under two classes: a label is wrong"),
    "across_splits": Kind(WARNING, "one picture in two splits of a domain: leakage"),
    "across_domains": Kind(WARNING, "one picture in both domains: leakage"),
    "within": Kind(NOTE, "one picture more than once in a split and class"),
}


def printable(path: Path | str) -> str:
    r"""Return a path as text that any terminal and JSON can carry.

    >>> printable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
