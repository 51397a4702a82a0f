"""Runs with batch norm of each source domain: data, evaluation, resuming and refused settings."""

from __future__ import annotations

import copy

import lightning as L
import pytest
import torch

from helpers import config, evaluated, fit_watched, same, stopped_at, weights
from methods import norms_of
from tl_lightning.checkpoints import resume
from tl_lightning.checkpoints.io import read_model
from tl_lightning.config.identity import job_key, other_settings
from tl_lightning.config.validation import check as validation
from tl_lightning.data.cache.features import FeatureSet
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.samplers.domain import shuffled
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.models import whole_outputs as passing
from tl_lightning.models.base import TransferModule
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.feature_plan import Plan
from tl_lightning.training.source_domains import source_problems
from tl_lightning.types import SplitKey, Stream
from tl_lightning.utils.spread import spread

NAMES = "data.source.domain=[plain,inverted]"
LAST = "checkpoints/last.ckpt"


def given(*methods: str) -> list[str]:
    name = methods[0]
    return [
        "model=domain_adaptation", f"method=[{','.join(methods)}]",
        f"method.{name}.per_source=true", NAMES,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder and the report of a run whose sources have different layers."""
    folder = tmp_path_factory.mktemp("run")
    return folder, training.fit(config(*given("dsbn", "mcc"), "optimizer.lr=0.01"), folder)


@pytest.mark.slow
def test_a_checkpoint_reproduces_the_metrics_and_predicts(trained) -> None:
    folder, report = trained
    file = folder / report["selection"]["checkpoint"]
    assert evaluation.evaluate(file)["metrics"] == evaluated(report)
    net = loading.load(file)
    assert net(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 10)
    assert {len(norm.source) for norm in norms_of(net)} == {2}
    for norm in norms_of(net):
        first, second = norm.source
        assert not torch.equal(first.running_mean, second.running_mean)
        assert not torch.equal(first.weight, second.weight)
    assert read_model(file).config["method"]["dsbn"]["num_sources"] == 2


def by_hand(net: TransferModule, data: TransferDataModule, split: str) -> torch.Tensor:
    """Return the logits of each sample of the source, passed alone through its domain's layers."""
    part = data.found["source"].splits()[split]
    places = [(number, 0) for number in range(len(part))]
    images = data.dataset("source", part, train=False).__getitems__(places)["inputs"]
    net.eval()
    with torch.no_grad():
        rows = [
            net._single_domain(Stream.SOURCE, image[None], torch.tensor([domain]))[1]
            for image, domain in zip(images, part.domains, strict=True)
        ]
    return torch.cat(rows)


def compared(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=name)


class Watch(L.Callback):
    """Compares the outputs of the source in a run with those of each sample alone."""

    def __init__(self) -> None:
        self.checked: list[str] = []

    def on_validation_batch_end(self, trainer, net, outputs, batch, batch_idx, dataloader_idx=0):
        self.compare("val", trainer, net, outputs, dataloader_idx)

    def on_test_batch_end(self, trainer, net, outputs, batch, batch_idx, dataloader_idx=0):
        self.compare("test", trainer, net, outputs, dataloader_idx)

    def compare(self, split, trainer, net, outputs, dataloader_idx) -> None:
        if dataloader_idx == 0:
            expected = by_hand(net, trainer.datamodule, split)[outputs["index"]]
            compared(split, outputs["logits"], expected)
            self.checked.append(split)

    def on_train_end(self, trainer, net) -> None:
        """The layers of the sources have become different."""
        expected = by_hand(net, trainer.datamodule, "val")
        compared("whole", passing.whole_outputs(net, Stream.SOURCE, "val")[1], expected)
        norms = norms_of(net)
        assert any(
            not torch.equal(n.source[0].running_mean, n.source[1].running_mean) for n in norms
        )
        self.checked.append("whole")


@pytest.mark.slow
def test_every_evaluation_of_the_source_uses_the_layers_of_its_domains(tmp_path, monkeypatch):
    watch = Watch()
    settings = config(*given("dsbn"), "optimizer.lr=0.01", "data.eval_batch_size=50")
    fit_watched(monkeypatch, tmp_path, settings, watch)
    assert {*watch.checked} == {"val", "whole", "test"}


@pytest.mark.slow
def test_stored_features_of_frozen_layers_pass_the_layers_of_their_domain(tmp_path) -> None:
    """Of a trained network, whose layers of the sources differ."""
    settings = config(*given("dsbn"), "optimizer.lr=0.01")
    training.fit(settings, tmp_path / "first")
    net = loading.load(tmp_path / "first" / LAST)
    data = validation.check(settings).data.build()
    data.prepare(net.needs())
    keys = [SplitKey("source", "test"), SplitKey("target", "test")]
    sets = {key: FeatureSet(tmp_path, str(key.domain), len(data.found[key.domain].test), 1, {})
            for key in keys}  # fmt: skip
    splits = {key: data.found[key.domain].test for key in keys}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    fill(Plan("full", sets=sets, splits=splits), net, data, trainer)
    batches = [*data.test_dataloader()[0], *data.sample_loader("source", 7)[0]]
    batches += data.whole_loader("source", split="test")
    expected = by_hand(net, data, "test")
    for batch in batches:
        assert batch["inputs"].is_floating_point()
        domains = torch.from_numpy(data.found["source"].test.domains)[batch["index"]]
        assert torch.equal(batch["domain"], domains)
        found = net._evaluate(batch, SplitKey("source", "test"))["logits"].detach()
        compared("stored", found, expected[batch["index"]])


def test_samples_that_are_chosen_from_a_split_keep_their_domain() -> None:
    data = validation.check(config(*given("dsbn"))).data.build()
    data.discover()
    train = data.found["source"].train
    chosen = shuffled(spread(len(train), 9))
    found = torch.cat([batch["domain"] for batch in data.whole_loader("source", 9)])
    assert found.tolist() == train.domains[chosen].tolist()
    assert {*found.tolist()} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("adabn", "mcc"), ("dsbn", "adda")])
def test_resume_equals_uninterrupted_run(methods, tmp_path, monkeypatch) -> None:
    overrides = given(*methods)
    training.fit(config(*overrides), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*overrides), tmp_path / "resumed")
    training.fit(config(*overrides, "resume=auto"), tmp_path / "resumed")
    assert same(weights(tmp_path / "whole" / LAST), weights(tmp_path / "resumed" / LAST))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adabn", "dsbn"])
def test_pooled_sources_need_no_number(name, tmp_path) -> None:
    """Which is not stored then: the data may get further sources."""
    report = training.fit(
        config("model=domain_adaptation", f"method=[{name}]", NAMES, "trainer.max_epochs=1"),
        tmp_path,
    )
    stored = read_model(tmp_path / LAST)
    assert stored.config["method"][name]["num_sources"] is None
    assert "sources" not in stored.data
    assert report["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adabn", "dsbn"])
def test_checkpoints_of_versions_without_the_setting(name, tmp_path) -> None:
    overrides = ["model=domain_adaptation", f"method=[{name}]", "trainer.max_epochs=1"]
    report = training.fit(config(*overrides), tmp_path)
    file = torch.load(tmp_path / LAST, weights_only=True)
    stored = file["hyper_parameters"]["config"]
    now = copy.deepcopy(stored)
    for key in ("per_source", "num_sources"):
        del stored["method"][name][key]
    torch.save(file, tmp_path / LAST)
    assert evaluation.evaluate(tmp_path / LAST)["metrics"] == evaluated(report)
    assert other_settings(stored, now) == []
    assert job_key(stored) == job_key(now)
    now["method"][name]["per_source"] = True
    assert other_settings(stored, now) == [f"method.{name}.per_source=absent, now True"]


@pytest.mark.parametrize(("overrides", "message"), [
    (["trainer.sync_batchnorm=true"], r"method\.dsbn\.per_source=true is not supported with trainer"
     r"\.sync_batchnorm=true, which needs .* set trainer\.sync_batchnorm=false, or method\.dsbn"),
    (["model=source_free", "init=run"], r"method\.dsbn\.per_source=true trains .* does not train "
     r"on the source; set model=domain_adaptation, or method\.dsbn\.per_source=false"),
    (["method.dsbn.num_sources=1"], r"method\.dsbn\.num_sources=1 is not an integer of at least 2"),
])  # fmt: skip
def test_refused_settings(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config(*given("dsbn"), *overrides))


@pytest.mark.parametrize(("overrides", "message"), [
    (["data.source.domain=plain"], r"method\.dsbn\.per_source=true keeps the domains of the source "
     r"apart, but the source \(.*\) is one domain; set method\.dsbn\.per_source=false, or set "),
    (["method.dsbn.num_sources=3"], r"method\.dsbn\.num_sources=3, but the source \(.*\) has 2 "
     r"domains; set method\.dsbn\.num_sources=null"),
])  # fmt: skip
def test_number_of_sources_is_that_of_the_data(overrides, message, tmp_path) -> None:
    with pytest.raises(DataError, match=message):
        training.fit(config(*given("dsbn"), *overrides), tmp_path)


def test_one_domain_that_others_leaves_is_refused() -> None:
    run = validation.check(config(*given("adabn")))
    none = Split([], None, [])
    source = Domain("a", ("x", "y"), none, none, none, domains=("a",))
    (problem,) = source_problems(run, source)
    assert problem.endswith("set method.adabn.per_source=false, or add another domain")


def test_the_number_of_sources_must_be_known() -> None:
    run = validation.check(config(*given("dsbn")))
    with pytest.raises(ConfigError, match=r"method\.dsbn\.num_sources=null is taken from the data"):
        building.build_module(run, ("a", "b"))


@pytest.mark.slow
def test_other_sources_are_not_evaluated(trained) -> None:
    """Their samples would pass the layers of another domain."""
    folder, _ = trained
    node = config(*given("dsbn"))["data"]
    for domains, found in ((["inverted", "plain"], "inverted, plain"), ("plain", "one domain")):
        other = {**node, "source": {**node["source"], "domain": domains}}
        message = rf"for the source domains plain, inverted, but the source of the data is {found}"
        with pytest.raises(ConfigError, match=message + r".*set data\.source\.domain=\[plain,inv"):
            evaluation.evaluate(folder / LAST, other)


def test_a_run_is_not_resumed_with_other_sources() -> None:
    before = {"fingerprint": "a", "counts": {}, "batches": 3, "sources": ["a", "b"]}
    now = {**before, "fingerprint": "b", "sources": ["b", "a"]}
    with pytest.raises(CheckpointError, match="of the source domains a, b, now b, a; restore the"):
        resume._check_data(before, now, "last.ckpt")
    with pytest.warns(UserWarning, match="the data have changed"):
        resume._check_data(before, {**now, "sources": ["a", "b"]}, "last.ckpt")
