"""Measure ours beside other libraries and write the page.

    python -m benchmarks.peers environments=/envs data=/data/dogs
    python -m benchmarks.peers environments=/envs data=/data/dogs rows=dann,full
    python -m benchmarks.peers environments=/envs texts=/data/aclImdb rows=texts

environments  folder for one environment per library, made once; names and versions are in
              requirements/
data          folder with train/<class>/*.jpg and test/<class>/*.jpg; without it, four parts are
              left out
texts         folder with train/<class>/*.txt and test/<class>/*.txt, such as aclImdb; without it,
              the part on texts is left out
rows          dann, full, commands, imports, start, resume, pipeline, frozen, heads, texts, aligned:
              parts to measure; results of other parts of the same day are kept, so that the page
              can be made in several calls
rounds        repetitions of each (5)
threads       compute threads of each process (all cores)
limit         seconds after which a part begins no other repetition (150); the page says how many
              repetitions there were
out           folder of the results (benchmarks/results)
tiny          true: everything once and small, to try the script

Run it from the root of the repository, with nothing else on the machine. The parts before texts
take about twenty minutes on two cores.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from benchmarks.peers.chart import draw
from benchmarks.peers.environments import PEERS, make, pinned
from benchmarks.peers.measure import ROWS
from benchmarks.peers.page import page
from benchmarks.peers.rounds import REPO
from benchmarks.peers.rows import Row, read, write
from benchmarks.peers.setting import Setting

OPTIONS = (
    "environments", "data", "texts", "rows", "rounds", "threads", "limit", "out", "tiny",
)  # fmt: skip


def main(arguments: list[str]) -> None:
    given = dict(item.partition("=")[::2] for item in arguments)
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown or "environments" not in given:
        sys.exit(f"{', '.join(unknown) or 'environments'}: see the options\n\n{__doc__}")
    parts = given["rows"].split(",") if given.get("rows") else list(ROWS)
    if wrong := [name for name in parts if name not in ROWS]:
        sys.exit(f"rows={','.join(wrong)}: valid are {', '.join(ROWS)}")
    tiny = given.get("tiny") == "true"
    folder = Path(given["environments"]).expanduser().resolve()
    setting = Setting(
        {name: make(name, folder) for name in PEERS},
        folder_of(given, "data"),
        1 if tiny else int(given.get("rounds", 5)),
        int(given.get("threads") or os.cpu_count() or 1),
        tiny,
        float(given.get("limit", 150)),
        folder_of(given, "texts"),
    )
    out = Path(given.get("out", REPO / "benchmarks" / "results"))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{datetime.date.today()}.json"
    for name in parts:
        started = time.perf_counter()
        found = ROWS[name](setting)
        rows, _ = read(file)
        keys = {row.key for row in found}
        write(file, [*(row for row in rows if row.key not in keys), *found], about(setting))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        publish(file)


def folder_of(given: dict[str, str], key: str) -> Path | None:
    """Return a folder that may be given."""
    return Path(given[key]).expanduser().resolve() if given.get(key) else None


def about(setting: Setting) -> dict[str, str]:
    """Return what is said of the machine and the versions."""
    versions = [f"{PEERS[n].title} {pinned(n)[PEERS[n].distribution]}" for n in PEERS]
    notes = [f"{peer.title}: {peer.note}" for peer in PEERS.values() if peer.note]
    return {
        "date": str(datetime.date.today()),
        "machine": f"{os.cpu_count()} cores of {processor()}, no GPU",
        "threads": f"{setting.threads} per process",
        "versions": ", ".join([*versions, f"tl_lightning with torch {version('torch')}"]),
        "Python": platform.python_version(),
        "notes on installation": "; ".join(notes),
    }


def processor() -> str:
    """Return the name of the processor, and whether it computes in bfloat16."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    words = "with" if "avx512_bf16" in text else "without"
    return f"{names[0] if names else platform.processor()} ({words} bfloat16)"


def publish(file: Path) -> None:
    """Write the page and the chart of the stored results."""
    rows, machine = read(file)
    reasons = yaml.safe_load((Path(__file__).parent / "reasons.yaml").read_text())
    ordered = sorted(rows, key=order)
    for row in ordered:
        if (row.reached() is False or row.behind()) and row.key in reasons:
            row.reason, row.next_step = reasons[row.key]["reason"], reasons[row.key]["next"]
    chart = file.with_suffix(".svg")
    draw(ordered, chart)
    file.with_suffix(".md").write_text(page(ordered, machine, chart.name))


ORDER = (
    "dann", "dann_memory", "full", "full_memory", "frozen_inside", "frozen_command",
    "aligned_inside", "aligned_command", "heads", "text", "text_padded", "cache", "first_step",
    "digits", "import", "help", "typo", "conflict", "lines", "resume",
)  # fmt: skip


def order(row: Row) -> int:
    """Return the position of a row on the page."""
    return ORDER.index(row.key) if row.key in ORDER else len(ORDER)


if __name__ == "__main__":
    main(sys.argv[1:])
