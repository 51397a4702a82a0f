"""What a run stores of single samples: their images, maps and nearest source samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import config
from tl_lightning.callbacks.explanations import to_explain
from tl_lightning.config.validation import check as validation
from tl_lightning.evaluation import load as loading
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training

SAMPLES = 40


def arrays_of(run) -> dict[str, np.ndarray]:
    with np.load(run / "predictions.npz") as found:
        return {key: found[key] for key in found.files}


@pytest.mark.slow
def test_images_maps_and_neighbours_are_those_of_the_samples(tmp_path) -> None:
    settings = config("baselines=[]", f"report.samples={SAMPLES}", "report.explained=6")
    report = training.fit(settings, tmp_path)
    found = arrays_of(tmp_path)
    data = validation.check(settings).data.build()
    data.discover()
    model = loading.load(tmp_path / report["selection"]["checkpoint"])
    data.prepare(model.needs())
    names = {d: list(data.found[d].test.names) for d in ("source", "target")}

    # Every projected sample has its own prediction and image.
    sheet = np.asarray(Image.open(io.BytesIO(found["thumbnails_sprite"].tobytes())))
    side, columns = int(found["thumbnails_side"]), int(np.ceil(np.sqrt(2 * SAMPLES)))
    assert found["thumbnails_point"].tolist() == list(range(2 * SAMPLES))
    for point in (0, 7, SAMPLES, 2 * SAMPLES - 1):
        domain = ("source", "target")[int(found["features_domain"][point])]
        row = found["features_row"][point]
        assert found[f"{domain}_true"][row] == found["features_label"][point]
        index = names[domain].index(str(found[f"{domain}_name"][row]))
        expected = np.asarray(data.found[domain].test.samples)[index].astype(float)
        top, left = (side * place for place in divmod(point, columns))
        shown = sheet[top : top + side, left : left + side]
        assert np.abs(shown - expected).mean() < 12  # JPEG

    # Errors first, then right predictions, all of the target.
    rows = found["explained_row"]
    wrong = found["target_true"][rows] != found["target_pred"][rows]
    assert int(found["explained_domain"]) == 1
    assert wrong.tolist() == sorted(wrong, reverse=True)
    assert 0 < wrong.sum() < 6 or wrong.all()
    assert found["explained_map"].shape[0] == 6
    assert float(found["explained_map"].max()) == 1.0

    # The neighbours have the most similar features among the projected source samples.
    def features(domain: str, indices: list[int]) -> torch.Tensor:
        pixels = np.asarray(data.found[domain].test.samples)[indices]
        with torch.no_grad():
            inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            values = model.task(model.extract(inputs))[0]
        return torch.nn.functional.normalize(values)

    explained = [names["target"].index(str(name)) for name in found["target_name"][rows]]
    source = data.sample_indices("source", SAMPLES)
    similar = features("target", explained) @ features("source", source).T
    nearest = similar.argmax(dim=1).numpy()
    chosen = similar[np.arange(6), found["explained_near"][:, 0]]
    assert np.allclose(chosen, similar[np.arange(6), nearest], atol=1e-4)
    assert found["explained_near"].max() < SAMPLES  # source samples come first
    assert report["timing"]["explanations_s"] > 0


@pytest.mark.slow
def test_nothing_is_stored_if_the_settings_are_0(tmp_path) -> None:
    off = ("report.thumbnails=0", "report.explained=0", "report.samples=10")
    training.fit(config("baselines=[]", "model=source_only", *off), tmp_path)
    found = arrays_of(tmp_path)
    assert "features_row" in found
    assert not [key for key in found if key.startswith(("thumbnails", "explained"))]
    assert "embedding-data" not in write_page(tmp_path).read_text()


def test_without_labels_the_samples_are_spread_over_the_confidence() -> None:
    scores = {k: (-1, 0, 1 - k / 10, 1, 0.0) for k in range(9)}
    assert to_explain(scores, 3) == [0, 4, 8]


def test_right_predictions_fill_up_where_there_are_few_errors() -> None:
    rows = {k: (k % 2, k % 2, 0.5 + k / 100, 0, 0.1) for k in range(10)}
    rows[4] = (0, 1, 0.9, 0, 0.1)
    assert to_explain(rows, 4) == [4, 9, 8, 7]
