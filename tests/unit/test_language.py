"""No term that was replaced occurs in sources, configuration, documentation and messages."""

from __future__ import annotations

import re

import pytest

from conftest import REPO

#: What must not be written, and what to write in its place.
AVOID = {
    r"adapters?": "method",
    r"pictures?": "image",
    r"twins?": "teacher",
    r"brackets?": "baselines",
    r"knobs?": "parameter",
    r"faults?|faulty": "problem, error or invalid",
    r"complain\w*": "report a problem",
    r"further (?:tasks?|labels?)": "auxiliary task",
    r"floor(?:s|ed)?|floor_ratio|least_predicted": "collapse filter",
    r"quarantined?": "unreadable",
    r"autops\w+": "NaN report",
    r"canvas": "plotting",
    r"ledger": "jobs",
    r"facts": "summary, information",
    r"lr_for_batch": "reference_batch_size",
    r"may_rest": "find_unused_parameters",
    r"make[_-]stream": "write_shards",
    r"anew": "again",
    r"(?:go|goes|going|went|gone) on\b(?! to)": "resume, continue",
    r"mend(?:s|ed|ing)?": "fix",
    r"of (?:ours|theirs|mine|one's own|its own kind)": "name the thing",
    r"house|houses|room|rooms": "package, place, space",
    r"(?:is|are|was) no (?!longer|more|less|better|worse|different|matter|way|need|reason|such)\w+":
        "is not a (valid) ...",
    r"type [\w.+~<]+=": "set x=y",
    r"words of": "terms, message",
    r"in a sentence|a sentence each": "as a message, one message each",
}  # fmt: skip
#: Where a term is somebody else's, or a key that readers of files rely on.
ALLOWED = (
    r"validator/floored/\w*", r'"floored"', r"validator/floor\b", r"torch\.floor", r"\.floor\(",
    r"inject_adapter\w*", r"adapter_name", r'"quarantined"', r"math\.floor", r"</?canvas",
)  # fmt: skip
PLACES = ("src/**/*.py", "src/**/*.j2", "conf/**/*.yaml", "docs/*.md", "scripts/**/*.py", "*.md")
FILES = sorted({path for place in PLACES for path in REPO.glob(place)})


def found_in(text: str) -> list[str]:
    """Return what must not be written, with its line and what to write instead."""
    for allowed in ALLOWED:
        text = re.sub(allowed, "", text)
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        for term, instead in AVOID.items():
            hit = re.search(rf"(?<![A-Za-z])(?:{term})(?![A-Za-z])", line, re.IGNORECASE)
            if hit:
                lines.append(f"{number}: {hit[0]!r} -> {instead}: {line.strip()[:80]}")
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_a_file_uses_the_terms_of_the_field(path) -> None:
    assert found_in(path.read_text()) == []


@pytest.mark.parametrize("text", [
    "the picture", "an Adapter", "x is no number", "the run goes on", "type seed=0", "self.twin_x",
    "a room", "mended",
])  # fmt: skip
def test_a_former_term_is_found(text: str) -> None:
    assert found_in(text)


@pytest.mark.parametrize("text", [
    "twinkle", "an image", "x is no longer there", "set seed=0", "validator/floored/bnm", "amend",
])  # fmt: skip
def test_other_words_are_fine(text: str) -> None:
    assert not found_in(text)
