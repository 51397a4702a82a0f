"""Title, command, examples and file names of a run's page; links and curves of a sweep's page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import config
from tl_lightning.reporting.run.page import write_page
from tl_lightning.reporting.sweep.page import write_sweep
from tl_lightning.training import fit as training


def test_title_has_backbone_and_folder_and_the_page_the_command(make_run: Any) -> None:
    run = make_run("my run", config={"backbone": {"_target_": "a.b.ConvNet", "name": None}})
    text = write_page(run).read_text()
    assert "<title>dann on digits, ConvNet, seed 0, my run</title>" in text
    assert re.search(r"finished <b>\d{4}-\d\d-\d\d \d\d:\d\d</b>", text)
    assert "tl-train" not in text.partition("How to repeat it")[2]
    (run / ".hydra").mkdir()
    overrides = "- backbone=tiny_cnn\n- data.root=/my images\n- 'data.name=\"<b>''\"'\n"
    (run / ".hydra" / "overrides.yaml").write_text(overrides)
    text = write_page(run).read_text()
    assert "<title>dann on digits, tiny_cnn, seed 0, my run</title>" in text
    command = text.partition("How to repeat it")[2]
    assert "tl-train backbone=tiny_cnn &#39;data.root=/my images&#39;" in command
    assert "<b>" not in command.partition("</pre>")[0].replace("<b>seed", "")
    (run / ".hydra" / "overrides.yaml").write_text("- [\n")
    assert "tl-train" not in write_page(run).read_text().partition("How to repeat it")[2]


def test_a_run_without_a_target_has_no_figures_of_domains(make_run: Any) -> None:
    run = make_run(full=True)
    with np.load(run / "predictions.npz") as archive:
        arrays = {key: value for key, value in archive.items() if "target" not in key}
    arrays["features_domain"] = np.zeros_like(arrays["features_domain"])
    np.savez(run / "predictions.npz", **arrays)
    text = write_page(run).read_text()
    written = {path.stem for path in (run / "figures").glob("features*.png")}
    assert written == {"features_before_classes", "features_after_classes"}
    assert "by domain" not in text


@pytest.mark.slow
def test_examples_are_the_most_wrong_with_their_names(tmp_path: Path) -> None:
    training.fit(config("baselines=[]", "trainer.max_epochs=1"), tmp_path)
    with np.load(tmp_path / "predictions.npz") as archive:
        arrays = dict(archive)
    for domain in ("source", "target"):
        true, pred = arrays[f"{domain}_true"], arrays[f"{domain}_pred"]
        confidence = np.where(true == pred, -1.0, arrays[f"{domain}_confidence"])
        worst = np.argsort(-confidence, kind="stable")[:4]
        assert (true != pred)[worst].all()
        shown = arrays[f"examples_{domain}_name"]
        assert shown.tolist() == arrays[f"{domain}_name"][worst].tolist()
        assert arrays[f"examples_{domain}_pred"].tolist() == pred[worst].tolist()
        assert arrays[f"examples_{domain}"].shape == (4, 16, 16, 3)
        text = write_page(tmp_path).read_text()
        assert all(f'<div class="file" title="{name}">' in text for name in shown)


def test_sweep_page_links_to_its_runs_and_has_curves_and_sorting(
    tmp_path: Path, make_run: Any
) -> None:
    for seed in range(2):
        make_run(f"sweep/dann, {seed}", name="dann", seed=seed, full=True)
        make_run(f"sweep/dann, {seed}/baselines/so", name="source_only", seed=seed, full=True)
    text = write_sweep(tmp_path / "sweep").read_text()
    for folder in ("dann%2C%200", "dann%2C%201", "dann%2C%201/baselines/so"):
        assert f'<a href="{folder}/report.html">seed' in text
    assert 'alt="Validation accuracy on the source by epoch, digits"' in text
    assert text.count('<th class="sort') >= 4
    assert "<script>" in text
    assert not re.search(r"https?://|<script src|@import", text)
