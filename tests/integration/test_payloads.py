"""Payloads in every type of file that is read, through every command that reads it.

A payload creates the file ``executed`` where it is run. Whatever a command does with a planted
file, it ends with a result or an error message; nothing is executed, and no page, table or terminal
receives text as markup, formula or control code. Archives are covered by test_unpack.py, classes
named in checkpoints by test_allowlist.py, overrides in studies by test_tune.py.
"""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.io import savemat

from conftest import REPO, TINY
from helpers import Payload
from layouts import BREEDS, class_folders, image
from tiny_texts import reviews, tiny_bert
from tl_lightning.api.run import load as load_model
from tl_lightning.cli.adapt import adapt
from tl_lightning.cli.check_data import check_data
from tl_lightning.cli.evaluate import evaluate
from tl_lightning.cli.extract_features import extract
from tl_lightning.cli.predict import predict
from tl_lightning.cli.publish import publish
from tl_lightning.cli.report import report
from tl_lightning.cli.train import train
from tl_lightning.cli.tune import tune
from tl_lightning.errors import TransferError
from tl_lightning.sweeps.jobs import failures
from tl_lightning.utils.text import printable

ENTRIES: dict[str, Callable[[], Any]] = {
    "train": train, "check_data": check_data, "evaluate": evaluate, "predict": predict,
    "adapt": adapt, "tune": tune, "report": report, "extract_features": extract,
    "publish": publish,
}  # fmt: skip

#: Texts that mean something to a browser, a template, a shell, a spreadsheet, Hydra or a terminal.
TEXTS = (
    "<script>alert(1)", "{{7777*7}}", "$(touch executed)", ";touch executed", "=1+cmd|'calc'!A1",
    "@SUM(1+1)", "\x1b[31mred\x07", "${oc.env:HOME}", "`touch executed`", "<img src=x onerror=a()>",
)  # fmt: skip
NUMBER = re.compile(r"[-+]?(\d[\d.]*(e[-+]?\d+)?|inf|nan)")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

#: Small networks and few steps on any data.
SHORT = [one for one in TINY if not one.startswith(("data", "backbone", "selection", "baselines"))]
SHORT += ["data.batch_size=4", "data.steps_per_epoch=1", "trainer.max_epochs=1", "baselines=[]",
          "model=source_only"]  # fmt: skip
CNN = ["backbone=small_cnn", "backbone.size=16", "backbone.widths=[4,8]", "backbone.features=16",
       "data.num_workers=0", "data.augment=none", *SHORT]  # fmt: skip
IMAGES = ["data=folder", "data.root={images}", *CNN]
RESNET = ["data=folder", "data.root={images}", "data.num_workers=0", "backbone=torchvision", *SHORT]
BERT = ["data=text_folder", "data.root={texts}", "backbone=hf", "data.bucket=2", *SHORT]
VECTORS = ["data=vectors", "data.source.train={file}", "backbone=vector_net", *SHORT]


#: Settings that tl-extract-features refuses.
UNUSED = ("model=source_only", "data.augment=none")


def trained(own: list[str]) -> dict[str, list[str]]:
    """Return the arguments of the commands that train, or prepare it, with these settings."""
    return {
        "train": [*own, "hydra.run.dir=out"],
        "tune": [*own, "optimizer.lr=log(1e-4,1e-2)", "tune.trials=1", "tune.dir=out"],
        "extract_features": [*(one for one in own if one not in UNUSED), "out=out"],
    }


def read(own: list[str]) -> dict[str, list[str]]:
    """Return the arguments of the commands that read these data."""
    data = [one for one in own if one.startswith(("data=", "data.r", "data.s", "data.ta"))]
    return {**trained(own), "check_data": own, "evaluate": ["checkpoint={run}", *data]}


#: The commands that read a kind of file, with their arguments.
USES: dict[str, dict[str, list[str]]] = {
    "checkpoint": {
        "evaluate": ["checkpoint={file}"], "adapt": ["checkpoint={file}"],
        "predict": ["checkpoint={file}", "input={pictures}"], "load": ["{file}"],
        **trained([*IMAGES, "backbone.checkpoint={file}"]),
    },
    "published": {
        "evaluate": ["checkpoint={file}", "data=folder", "data.root={images}"],
        "predict": ["checkpoint={file}", "input={pictures}"], "load": ["{file}"],
        "adapt": ["checkpoint={file}", "data=folder", "data.root={images}",
                  "data.target.root={target}", "hydra.run.dir=out"],
        "publish": ["checkpoint={file}", "out=out"],
        "train": [*IMAGES, "init={file}", "hydra.run.dir=out"],
    },
    "init": trained([*IMAGES, "init={file}"]),
    "resume": {"train": [*IMAGES, "resume={file}", "hydra.run.dir=out"]},
    "weights": trained([*RESNET, "backbone.weights={file}"]),
    "vectors": {**trained(VECTORS), "check_data": VECTORS},
    "digits": read(["data=mnist_usps", "data.root={file}", *CNN]),
    "table": read(["data=csv", "data.table={file}", *CNN]),
    "texts": trained(["data=text_csv", "data.table={file}", "backbone.name={bert}", "backbone=hf",
                   "backbone.pretrained=false", "data.bucket=2", *SHORT]),
    "stream": read(["data=stream", "data.source.url={file}", *CNN]),
    "folder": read(["data=folder", "data.root={file}", *CNN]),
    "images": {"predict": ["checkpoint={run}", "input={file}", "out=out.csv"],
               "train": ["data=folder", "data.root={images}", "data.target.root={file}", *CNN[:-1],
                         "model=joint_bn", "hydra.run.dir=out"]},
    "encoder": trained([*BERT, "backbone.name={file}"]),
    "hydra": {"train": ["-cp", "{file}", "-cn", "config", "hydra.run.dir=out"]},
    "run": {"report": ["run={file}"], "load": ["{file}"],
            "adapt": ["checkpoint={file}", "data.target.root={target}", "hydra.run.dir=out"],
            "evaluate": ["checkpoint={file}"],
            "predict": ["checkpoint={file}", "input={pictures}"],
            "train": [*IMAGES, "init={file}", "hydra.run.dir=out"]},
    "sweep": {"report": ["sweep={file}"]},
    "study": {"tune": [*IMAGES, "optimizer.lr=log(1e-4,1e-2)", "tune.trials=2", "tune.dir={file}"]},
    "cached": {"train": [*IMAGES, "data.on_error=skip", "hydra.run.dir=out"],
               "check_data": [*IMAGES, "data.on_error=skip"]},
}  # fmt: skip

Plant = Callable[[Path, Path, "Places"], Path]
PLANTS: dict[str, tuple[Plant, tuple[str, ...]]] = {}


def plants(name: str, *uses: str) -> Callable[[Plant], Plant]:
    """Register a function that writes a file with a payload, and the uses of that file."""

    def register(plant: Plant) -> Plant:
        PLANTS[name] = plant, uses
        return plant

    return register


@dataclass(frozen=True)
class Places:
    """Intact files that the commands need beside the planted one."""

    run: Path
    images: Path
    target: Path
    pictures: Path
    texts: Path
    bert: Path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    from tl_lightning.api.run import fit

    root = tmp_path_factory.mktemp("places")
    found = Places(
        root / "run", root / "images", root / "target", root / "images" / BREEDS[0],
        root / "texts", root / "bert",
    )  # fmt: skip
    class_folders(found.images, 6)
    class_folders(found.target, 6, seed=99)
    reviews(found.texts, 6)
    tiny_bert(found.bert)
    fit([one.format(images=found.images) for one in IMAGES], run_dir=found.run)
    return found


# -- weights -------------------------------------------------------------------------------------
def pickled(file: Path, mark: Path, form: str) -> Path:
    """Write a pickle as ``torch.save`` does now (zip), as it did before (legacy), or alone."""
    content = {"state_dict": {"x": torch.ones(1)}, "model": Payload(mark)}
    if form == "plain":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    return file


for form in ("zip", "legacy", "plain"):
    for suffix, uses in (("ckpt", ("checkpoint", "init", "resume")), ("pt", ("weights",)),
                         ("pth", ("weights", "checkpoint"))):  # fmt: skip

        @plants(f"{suffix} ({form})", *uses)
        def _weights(
            folder: Path, mark: Path, _: Places, form: str = form, suffix: str = suffix
        ) -> Path:
            return pickled(folder / f"x.{suffix}", mark, form)


@plants("ckpt (trained)", "checkpoint", "init", "resume")
def _trained(folder: Path, mark: Path, places: Places) -> Path:
    stored = torch.load(places.run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**stored, "extra": Payload(mark)}, folder / "x.ckpt")
    return folder / "x.ckpt"


@plants("safetensors (pickle)", "weights", "checkpoint")
def _no_safetensors(folder: Path, mark: Path, _: Places) -> Path:
    return pickled(folder / "x.safetensors", mark, "zip")


@plants("safetensors (header)", "weights")
def _header(folder: Path, mark: Path, _: Places) -> Path:
    content = save({"x": torch.ones(1)}, {TEXTS[0]: TEXTS[2], "format": f"$(touch '{mark}')"})
    (folder / "x.safetensors").write_bytes(content)
    return folder / "x.safetensors"


@plants("safetensors (sizes)", "weights")
def _sizes(folder: Path, mark: Path, _: Places) -> Path:
    header = b'{"x":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}'
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    (folder / "x.safetensors").write_bytes(content)
    return folder / "x.safetensors"


# -- published models ---------------------------------------------------------------------------
def published(folder: Path, places: Places, **changes: Any) -> Path:
    """Return a published model whose config.json has other values, at dotted keys."""
    from tl_lightning.inference.publish import publish

    place = publish(places.run, folder / "m")
    found = json.loads((place / "config.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = found
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    (place / "config.json").write_text(json.dumps(found))
    return place


@plants("published (pickles)", "published")
def _published_pickles(folder: Path, mark: Path, places: Places) -> Path:
    """Pickles beside the files, and in the place of the weights with their checksum."""
    place = published(folder, places)
    for name in ("pytorch_model.bin", "last.ckpt", "model.ckpt"):
        pickled(place / name, mark, "zip")
    (place / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    content = pickled(place / "model.safetensors", mark, "zip").read_bytes()
    found = json.loads((place / "config.json").read_text())
    found["sha256"]["model.safetensors"] = hashlib.sha256(content).hexdigest()
    (place / "config.json").write_text(json.dumps(found))
    return place


@plants("published (os.system)", "published")
def _published_system(folder: Path, mark: Path, places: Places) -> Path:
    target = {"_target_": "os.system", "command": f"touch '{mark}'"}
    return published(folder, places, config__loss=target, config__metrics={"x": target},
                     config__allow=["os"])  # fmt: skip


@plants("published (texts)", "published")
def _published_texts(folder: Path, mark: Path, places: Places) -> Path:
    return published(folder, places, classes=[*TEXTS[:3]], restored_by={
        "tokenizer": f"$(touch '{mark}')", "network": {"auto_map": TEXTS[0]}})  # fmt: skip


@plants("published (paths)", "published")
def _published_paths(folder: Path, mark: Path, places: Places) -> Path:
    return published(folder, places, sha256={"../../../etc/hosts": "", TEXTS[0]: TEXTS[2]})


# -- arrays and tables ---------------------------------------------------------------------------
def objects(mark: Path) -> np.ndarray:
    array = np.empty((12, 2), dtype=object)
    array[:] = Payload(mark)
    return array


@plants("npz", "vectors")
def _npz(folder: Path, mark: Path, _: Places) -> Path:
    np.savez(folder / "x.npz", x=objects(mark), y=np.arange(12) % 3)
    return folder / "x.npz"


@plants("npz (labels)", "vectors")
def _npz_labels(folder: Path, mark: Path, _: Places) -> Path:
    np.savez(folder / "x.npz", x=np.ones((12, 2)), y=objects(mark)[:, 0])
    return folder / "x.npz"


@plants("npy", "vectors")
def _npy(folder: Path, mark: Path, _: Places) -> Path:
    with (folder / "x.npz").open("wb") as file:
        np.save(file, objects(mark))
    return folder / "x.npz"


@plants("npz (digits)", "digits")
def _digits(folder: Path, mark: Path, _: Places) -> Path:
    for name in ("mnist", "usps"):
        np.savez(folder / f"{name}.npz", **{key: objects(mark) for key in (
            "x_train", "y_train", "x_test", "y_test", "train_images", "train_labels")})  # fmt: skip
    return folder


@plants("mat", "vectors")
def _mat(folder: Path, mark: Path, _: Places) -> Path:
    cells = np.empty(12, dtype=object)
    cells[:] = f"system('touch {mark}')"
    savemat(folder / "x.mat", {"fts": cells, "labels": np.arange(12) % 3})
    return folder / "x.mat"


@plants("mat (pickle)", "vectors")
def _mat_pickle(folder: Path, mark: Path, _: Places) -> Path:
    return pickled(folder / "x.mat", mark, "plain")


@plants("svmlight", "vectors")
def _svmlight(folder: Path, mark: Path, _: Places) -> Path:
    lines = [f"__import__('os').system('touch {mark}') 1:{text}" for text in TEXTS]
    (folder / "x.svmlight").write_text("\n".join(lines))
    return folder / "x.svmlight"


@plants("svmlight (pickle)", "vectors")
def _svmlight_pickle(folder: Path, mark: Path, _: Places) -> Path:
    return pickled(folder / "x.svmlight", mark, "plain")


def extension(mark: Path, name: str, values: list[Any]) -> Any:
    """Return a field of the type with which pyarrow pickled Python types, and its values."""
    pa = pytest.importorskip("pyarrow")
    column = pa.array(values)
    stored = {
        "ARROW:extension:name": b"arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    return pa.field(name, column.type, metadata=stored), column


def parquet(file: Path, mark: Path, columns: dict[str, list[Any]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    found = [extension(mark, name, values) for name, values in columns.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([field for field, _ in found], metadata={
        "pandas": pickle.dumps(Payload(mark)), "tl_lightning": f"$(touch '{mark}')"})  # fmt: skip
    parquet.write_table(pa.table([column for _, column in found], schema=schema), file)
    return file


def rows(places: Places) -> dict[str, list[Any]]:
    paths = sorted(places.images.glob("*/*.jpg"))
    return {"path": [str(path) for path in paths], "label": [path.parent.name for path in paths]}


@plants("parquet", "table")
def _parquet(folder: Path, mark: Path, places: Places) -> Path:
    return parquet(folder / "x.parquet", mark, rows(places))


@plants("parquet (texts)", "texts")
def _parquet_texts(folder: Path, mark: Path, _: Places) -> Path:
    columns = {"text": [f"{text} {k}" for k in range(4) for text in TEXTS], "label": [*TEXTS] * 4}
    return parquet(folder / "x.parquet", mark, columns)


@plants("parquet (stream)", "stream")
def _stream(folder: Path, mark: Path, places: Places) -> Path:
    found = rows(places)
    columns = {"image": [Path(path).read_bytes() for path in found["path"]]}
    for split in ("train", "val", "test"):
        parquet(folder / "s" / split / "0.parquet", mark, {**columns, "label": found["label"]})
    return folder / "s"


@plants("csv", "table")
def _csv(folder: Path, mark: Path, places: Places) -> Path:
    paths = rows(places)["path"]
    with (folder / "x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows((path, TEXTS[k % len(TEXTS)]) for k, path in enumerate(paths * 4))
    return folder / "x.csv"


@plants("csv (paths)", "table")
def _csv_paths(folder: Path, mark: Path, places: Places) -> Path:
    lines = [f"{json.dumps(text)},{k}" for k, text in enumerate(TEXTS)]
    (folder / "x.csv").write_text("\n".join(["path,label", *lines]))
    return folder / "x.csv"


@plants("list", "table")
def _list(folder: Path, mark: Path, places: Places) -> Path:
    (folder / "x.txt").write_text("".join(f"{text} {k}\n" for k, text in enumerate(TEXTS)))
    return folder / "x.txt"


@plants("csv (texts)", "texts")
def _csv_texts(folder: Path, mark: Path, _: Places) -> Path:
    with (folder / "x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"{text} {k}", text) for k in range(4) for text in TEXTS)
    return folder / "x.csv"


@plants("names", "folder")
def _names(folder: Path, mark: Path, _: Places) -> Path:
    for number, text in enumerate(TEXTS):
        for k in range(6):
            image(folder / "n" / text / f"{k}{text}.png", 10 * number + k)
            (folder / "n" / text / f"{k}{text}.png").rename(folder / "n" / text / f"{text}{k}.png")
    return folder / "n"


@plants("names of images", "images")
def _names_of_images(folder: Path, mark: Path, _: Places) -> Path:
    for number, text in enumerate(TEXTS):
        image(folder / "n" / f"{number}.png", number).rename(folder / "n" / f"{text}.png")
    return folder / "n"


@plants("image (text)", "folder")
def _image(folder: Path, mark: Path, places: Places) -> Path:
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    for key, text in enumerate(TEXTS):
        about.add_text(f"key{key}", text)
    about.add_text("XML:com.adobe.xmp", "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/hosts'>]>&a;")
    for name in BREEDS:
        (folder / "n" / name).mkdir(parents=True)
        for k in range(6):
            picture = Image.effect_noise((20, 20), 50 + k).convert("RGB")
            picture.save(folder / "n" / name / f"{k}.png", pnginfo=about)
    return folder / "n"


# -- encoders ------------------------------------------------------------------------------------
def encoder(folder: Path, mark: Path) -> Path:
    """Write an encoder whose configuration names classes in a file of its folder."""
    (folder / "evil.py").parent.mkdir(exist_ok=True)
    tiny_bert(folder, weights=True)
    code = f"import os; os.system('touch {mark}')\nclass Evil:\n    pass\n"
    (folder / "evil.py").write_text(code)
    kinds = ("AutoConfig", "AutoModel", "AutoTokenizer")
    remote = {"auto_map": dict.fromkeys(kinds, "evil.Evil"), "trust_remote_code": True}
    for name in ("config.json", "tokenizer_config.json"):
        before = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        tokenizer = {"tokenizer_class": ["evil.Evil", "evil.Evil"]}
        more = tokenizer if "tokenizer" in name else {}
        (folder / name).write_text(json.dumps({**before, **remote, **more}))
    return folder


@plants("tokenizer and config.json", "encoder")
def _remote_code(folder: Path, mark: Path, _: Places) -> Path:
    return encoder(folder / "b", mark)


@plants("config.json (own type)", "encoder")
def _own_type(folder: Path, mark: Path, _: Places) -> Path:
    place = encoder(folder / "b", mark)
    network = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**network, "model_type": "evil"}))
    return place


@plants("pytorch_model.bin", "encoder")
def _bin(folder: Path, mark: Path, _: Places) -> Path:
    place = encoder(folder / "b", mark)
    (place / "model.safetensors").unlink()
    pickled(place / "pytorch_model.bin", mark, "zip")
    return place


@plants("model.safetensors", "encoder")
def _model(folder: Path, mark: Path, _: Places) -> Path:
    place = encoder(folder / "b", mark)
    pickled(place / "model.safetensors", mark, "zip")
    return place


# -- what runs write -----------------------------------------------------------------------------
def hostile(value: Any, seed: int = 0) -> Any:
    """Return a copy of plain values with a hostile text for every text except the kinds."""
    if isinstance(value, dict):
        kept = ("schema", "kind", "checkpoint", "fingerprint")
        return {
            k: v if k in kept else hostile(v, seed + n) for n, (k, v) in enumerate(value.items())
        }
    if isinstance(value, list):
        return [hostile(v, seed + n) for n, v in enumerate(value)]
    return TEXTS[seed % len(TEXTS)] if isinstance(value, str) else value


def copied(folder: Path, places: Places) -> Path:
    shutil.copytree(places.run, folder / "s" / "job")
    return folder / "s" / "job"


@plants("report.json", "run", "sweep")
def _report(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    found = json.loads((place / "report.json").read_text())
    (place / "report.json").write_text(json.dumps(hostile(found)))
    return place


@plants("report.json (types)", "run", "sweep")
def _report_types(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    found = json.loads((place / "report.json").read_text())
    for key in found:
        found[key] = found[key] if key in ("schema", "kind") else TEXTS[0]
    (place / "report.json").write_text(json.dumps(found))
    return place


@plants("report.json (list)", "run", "sweep")
def _report_list(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    (place / "report.json").write_text(json.dumps([*TEXTS]))
    return place


@plants("report.json (path)", "run")
def _report_path(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    found = json.loads((place / "report.json").read_text())
    found["selection"]["checkpoint"] = str(pickled(folder / "x.ckpt", mark, "zip"))
    (place / "report.json").write_text(json.dumps(found))
    return place


@plants("metrics.csv", "run", "sweep")
def _metrics(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    header = ",".join(json.dumps(text) for text in TEXTS)
    (place / "metrics.csv").write_text(f"epoch,step,{header}\n" + f"0,1{',1' * len(TEXTS)}\n" * 3)
    return place


@plants("metrics.csv (cells)", "run", "sweep")
def _metrics_cells(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    lines = [f"0,{k},{json.dumps(text)}" for k, text in enumerate(TEXTS)]
    (place / "metrics.csv").write_text("\n".join(["epoch,step,train/loss", *lines]))
    return place


@plants("predictions.npz", "run", "sweep")
def _predictions(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    with np.load(place / "predictions.npz", allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    np.savez(place / "predictions.npz", **{key: objects(mark) for key in arrays})
    return place


@plants("predictions.npz (texts)", "run", "sweep")
def _prediction_texts(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    with np.load(place / "predictions.npz", allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    for key, array in arrays.items():
        if array.dtype.kind == "U":
            arrays[key] = np.resize(np.array(TEXTS), array.shape)
    np.savez(place / "predictions.npz", **arrays)
    return place


@plants("predictions.npz (types)", "run", "sweep")
def _prediction_types(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    with np.load(place / "predictions.npz", allow_pickle=False) as stored:
        arrays = {key: np.resize(np.array(TEXTS), stored[key].shape[:1]) for key in stored.files}
    np.savez(place / "predictions.npz", **arrays)
    return place


@plants("failed.json", "sweep")
def _failed(folder: Path, mark: Path, places: Places) -> Path:
    copied(folder, places)
    failed = {"error": " ".join(TEXTS), "overrides": [*TEXTS]}
    (folder / "s" / "other").mkdir()
    (folder / "s" / "other" / "failed.json").write_text(json.dumps(failed))
    return folder / "s"


@plants("failed.json (types)", "sweep")
def _failed_types(folder: Path, mark: Path, places: Places) -> Path:
    copied(folder, places)
    (folder / "s" / "other").mkdir()
    (folder / "s" / "other" / "failed.json").write_text(json.dumps({"error": 1, "overrides": 2}))
    return folder / "s"


@plants(".hydra/*.yaml", "run", "sweep", "hydra")
def _yaml(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    (place / ".hydra").mkdir(exist_ok=True)
    for name in ("config", "hydra", "overrides"):
        tag = f"!!python/object/apply:os.system [\"touch '{mark}'\"]"
        start = "- seed=1\n- " if name == "overrides" else "a: "
        for below in (place / ".hydra", place):
            (below / f"{name}.yaml").write_text(start + tag)
    return place


@plants(".hydra/overrides.yaml (texts)", "run", "sweep")
def _overrides(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    (place / ".hydra").mkdir(exist_ok=True)
    lines = [f"- {json.dumps(text)}" for text in (*TEXTS, f"backbone={TEXTS[0]}")]
    (place / ".hydra" / "overrides.yaml").write_text("\n".join(lines))
    return place


@plants("lr_find.json", "run")
def _lr_find(folder: Path, mark: Path, places: Places) -> Path:
    place = copied(folder, places)
    (place / "lr_find.json").write_text(json.dumps({"rates": [*TEXTS], "losses": TEXTS[0]}))
    return place


# -- study and cache -----------------------------------------------------------------------------
@plants("study.db", "study")
def _study(folder: Path, mark: Path, places: Places) -> Path:
    optuna = pytest.importorskip("optuna")
    (folder / "study").mkdir()
    file = folder / "study" / "study.db"
    created = optuna.create_study(storage=f"sqlite:///{file}", study_name="study",
                                  direction="maximize")  # fmt: skip
    trial = created.ask()
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    trial.set_user_attr("overrides", [*TEXTS])
    trial.set_user_attr("folder", TEXTS[0])
    return folder / "study"


@plants("study.db (values)", "study")
def _study_values(folder: Path, mark: Path, places: Places) -> Path:
    place = _study(folder, mark, places)
    with sqlite3.connect(place / "study.db") as base:
        base.execute("update trial_user_attributes set value_json = ?", (json.dumps(TEXTS[2]),))
        base.execute("update trial_params set distribution_json = ?", (
            json.dumps({"name": "__import__('os').system", "attributes": {}}),))  # fmt: skip
    base.close()
    return place


@plants("study.db (pickle)", "study")
def _study_pickle(folder: Path, mark: Path, places: Places) -> Path:
    (folder / "study").mkdir()
    pickled(folder / "study" / "study.db", mark, "plain")
    return folder / "study"


@plants("cache", "cached")
def _cache(folder: Path, mark: Path, places: Places) -> Path:
    filled(places)
    for file in (folder / "cache").rglob("*"):
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                names = stored.files
            np.savez(file, **{name: objects(mark) for name in names})
        elif file.is_file() and file.suffix in (".json", ".safetensors", ".bin"):
            pickled(file, mark, "plain")
    return folder


@plants("cache (json)", "cached")
def _cache_json(folder: Path, mark: Path, places: Places) -> Path:
    filled(places)
    for file in (folder / "cache").rglob("*.json"):
        file.write_text(json.dumps(TEXTS))
    return folder


def filled(places: Places) -> None:
    """Fill the cache as the training commands do."""
    code = outcome("train", arguments("cached", "train", Path(), places))
    assert code == 0
    shutil.rmtree("out")


# -- the drill -----------------------------------------------------------------------------------
def arguments(use: str, entry: str, file: Path, places: Places) -> list[str]:
    values = {**vars(places), "file": file}
    return [one if one[0] == "+" else re.sub(r"\{(file|run|images|target|pictures|texts|bert)\}",
            lambda found: str(values[found[1]]), one) for one in USES[use][entry]]  # fmt: skip


def outcome(entry: str, given: list[str]) -> int:
    """Run a command in this process and return its exit code; it may not raise anything else."""
    if entry == "load":
        try:
            load_model(*given)
        except TransferError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        return 0
    failures.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", [f"tl-{entry}", *given])
        try:
            ENTRIES[entry]()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


#: Combinations of the normal run, which take a few seconds in total.
FAST = {("checkpoint", "load"), ("published", "load"), ("vectors", "check_data"), ("run", "load")}
DRILL = [
    pytest.param(kind, use, entry, marks=() if (use, entry) in FAST else pytest.mark.slow)
    for kind, (_, uses) in PLANTS.items() for use in uses for entry in USES[use]
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "use", "entry"), DRILL)
def test_nothing_planted_is_executed(
    kind: str, use: str, entry: str, places: Places, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = PLANTS[kind][0](tmp_path, tmp_path / "executed", places)
    capfd.readouterr()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    code = outcome(entry, arguments(use, entry, file, places))
    written = capfd.readouterr()
    assert code in ((0, 1, 2) if entry == "check_data" else (0, 2)), written.err
    if code == 2:
        assert "error: " in written.err
    # A warm start builds nothing of the other configuration, and texts are shown as they are.
    harmless = use == "published" and (
        "texts" in kind or (entry, "system" in kind) == ("train", True)
    )
    if use in ("checkpoint", "init", "resume", "weights", "published") and not harmless:
        assert code == 2
        assert file.name in written.err
    assert "Traceback" not in written.err + written.out
    assert not CONTROL.search(written.err + written.out), written
    assert not [*tmp_path.rglob("executed*")]
    for page in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.svg")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<script>alert|<img src=x|54439", text)
    for table in tmp_path.rglob("*.csv"):
        if table.read_bytes() != before.get(table):
            for cell in (cell for row in csv.reader(table.open(newline="")) for cell in row):
                assert NUMBER.fullmatch(cell) or not re.match(r"[=+\-@\t\r]", cell), cell


def test_the_number_of_combinations() -> None:
    """The figures in docs/robustness.md."""
    text = (REPO / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert f"{len(PLANTS)} planted files" in text
    assert f"{len(DRILL)} combinations with {len(ENTRIES) + 1} entry points" in text
