"""Few labels of one domain: FixMatch, FlexMatch and self-training against the labels alone.

    python benchmarks/few_labels.py out=/tmp/few.jsonl labels=4,25 [seeds=0,1,2]
        [models=source_only,fixmatch,flexmatch,self_training] -- data=cifar10 data.root=/data ...

trains every model with ``labels`` images of each class (``all``: with all of them, source_only
only), of which ``out`` has one line each; runs that are done are skipped. All models of a seed take
the same number of steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from resumable import Results, arguments_of, lines_of

MODELS = "source_only,fixmatch,flexmatch,self_training"


def main(arguments: list[str]) -> None:
    """Run what is missing, and print the table."""
    given, extra = arguments_of(arguments)
    results = Results(Path(given["out"]))
    for seed in given.get("seeds", "0,1,2").split(","):
        for labels in given["labels"].split(","):
            models = given.get("models", MODELS) if labels != "all" else "source_only"
            for model in models.split(","):
                count = "null" if labels == "all" else labels
                settings = [
                    *extra, f"model={model}", f"seed={seed}", "data.target=null", "selection=last",
                    f"data.labelled_per_class={count}", "baselines=false",
                ]  # fmt: skip
                about = {"labels": labels, "model": model, "seed": seed}
                results.run(settings, about, lambda report, _: _figures(report))
    _print(lines_of(results.path))


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return {"acc": report["metrics"]["source/test/acc"]}


def _print(lines: list[dict[str, Any]]) -> None:
    for labels in dict.fromkeys(line["labels"] for line in lines):
        for model in dict.fromkeys(line["model"] for line in lines if line["labels"] == labels):
            accs = [100 * line["acc"] for line in lines
                    if (line["labels"], line["model"]) == (labels, model)]  # fmt: skip
            spread = f" ± {np.std(accs, ddof=1):.1f}" if len(accs) > 1 else ""
            each = ", ".join(f"{acc:.1f}" for acc in accs)
            print(f"| {labels} | {model} | {np.mean(accs):.1f}{spread} ({each}) |")


if __name__ == "__main__":
    main(sys.argv[1:])
