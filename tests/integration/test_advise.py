"""tl-advise: rules, text, command and error messages."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers import command
from tl_lightning.cli import advise as cli
from tl_lightning.cli import check_data
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.domain import Split
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.reliability.accuracy import Estimate
from tl_lightning.reporting.advice import Advice, advice_text, as_plain
from tl_lightning.selection.advice import RULES, Findings, first_rule
from tl_lightning.training import advice as advice_module

FOUND = Findings(
    backbone="net", classes=7, per_class=(50, 80, 90), images={"source": 560, "target": 500},
    side=224, overlap="", source_val=0.9, small_val=None, a_distance=1.9, mix_distance=0.1,
    scores={"frozen probe": 0.5, "align": 0.6, "relative_bn": 0.7},
    agreement={"frozen probe": 1.0, "align": 0.8, "relative_bn": 0.7},
)  # fmt: skip
SMALL = replace(FOUND, side=28, small_val=0.95)
ESTIMATES = {
    name: Estimate(value, value - 0.1, value + 0.1, {}, ("A warning.",))
    for name, value in (("frozen probe", 0.4), ("align", 0.5), ("relative_bn", 0.6))
}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (FOUND, "pretrained"),
        (SMALL, "from scratch"),
        (replace(SMALL, small_val=0.9), "pretrained"),  # not better than the probe
        (replace(SMALL, side=65), "pretrained"),
        (replace(FOUND, a_distance=0.49), "alike"),
        (replace(FOUND, per_class=(5, 19, 30)), "few images per class"),
        (replace(FOUND, per_class=(5, 20, 30)), "pretrained"),
        (
            replace(FOUND, per_class=(5, 11, 30), scores={**FOUND.scores, "frozen probe": 0.8}),
            "pretrained",  # adapting the probe does not raise its score
        ),
    ],
)
def test_the_first_rule_that_applies_is_followed(found, name) -> None:
    assert first_rule(found).name == name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_run_a_reason_and_measured_evidence(rule) -> None:
    overrides = ["data=dogs", "backbone=mobilenet_v2", *rule.overrides]
    assert validation.check(compose(overrides)).data_name == "dogs"
    assert any(digit.isdigit() for digit in rule.evidence)
    assert rule.reason(SMALL)
    assert rule.reason(SMALL)[-1] != "."


def test_text_and_json() -> None:
    rule = first_rule(FOUND)
    advice = Advice(FOUND, rule, ESTIMATES, 30.0, 75.0, "2,250 images")
    text = " ".join(advice_text(advice, "pacs", "train.py model=auto").split())
    assert "Try first: model=auto." in text
    assert "about 60.0 % on the target (between 50.0 % and 70.0 %)" in text
    assert "for the probe with relative_bn" in text
    assert "A warning." in text
    assert "Takes: about 1 min 15 s: 2,250 images." in text
    assert text.endswith("Command: train.py model=auto")
    assert "other frequencies" not in text
    plain = json.loads(json.dumps(as_plain(advice, "x")))
    assert (plain["rule"], plain["expected"]) == ("pretrained", "relative_bn")
    assert plain["estimates"]["align"]["value"] == 0.5
    other = replace(FOUND, mix_distance=0.3, a_distance=0.4)
    text = advice_text(replace(advice, found=other, rule=first_rule(other)), "x", "y")
    assert "other frequencies in the target" in " ".join(text.split())
    assert "for the frozen probe" in " ".join(text.split())
    scratch = replace(advice, found=SMALL, rule=first_rule(SMALL))
    assert "no estimate before training" in advice_text(scratch, "x", "y")
    distant = replace(advice, found=replace(FOUND, mix_distance=0.3))
    assert "not reliable as the domains differ" in advice_text(distant, "x", "y")


def quick(trained: str, *more: str) -> list[str]:
    """Return settings whose pretrained network is a tiny one that was trained on the source."""
    return [
        "data=digits", "data.target_copies=1", "data.augment=none", "backbone=tiny_cnn",
        "backbone.size=16", "backbone.widths=[4,8]", "backbone.features=16",
        f"backbone.checkpoint={trained}", "trainer=cpu", "trainer.precision=32-true",
        "channels_last=false", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_advice_names_the_run_and_reads_no_target_label(tmp_path, trained, monkeypatch) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    first, title, line = cli.advice_of(quick(trained, cache), 150)
    assert title == "digits"
    # Those of the data, not of the samples that are looked at.
    assert first.found.images == {"source": 539, "target": 540}
    assert first.found.per_class[0] > 40
    assert first.found.side == 16
    assert set(first.found.scores) == {"frozen probe", "align", "relative_bn"}
    assert set(first.estimates) == set(first.found.scores)
    assert first.found.agreement["frozen probe"] == 1.0
    assert 0.5 < first.found.source_val <= 1
    assert 0.5 < (first.found.small_val or 0) <= 1
    assert first.rule.overrides[0] in line
    assert "data=digits" in line
    assert first.seconds > 0
    from tl_lightning.data.datamodules.digits import DigitsDataModule

    original = DigitsDataModule.domains

    def poisoned(self):
        found = dict(original(self))
        rng = np.random.default_rng(0)

        def change(split: Split) -> Split:
            return replace(split, labels=rng.permutation(split.labels))

        found["target"] = found["target"].map(change)
        return found

    monkeypatch.setattr(DigitsDataModule, "domains", poisoned)
    again, _, _ = cli.advice_of(quick(trained, f"cache.dir={tmp_path / 'other'}"), 150)
    assert again.found == first.found
    assert again.estimates == first.estimates


@pytest.mark.slow
def test_the_command_prints_the_advice_only(tmp_path, trained) -> None:
    done = command("advise", [*quick(trained), "samples=150", "format=json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["data=cifar10"],
            r"data=cifar10 has no target to compare the source with; set data.target.root=<folder>",
        ),
        (["data=digits", "data.target=null"], "data=digits has no target"),
        (["data=vectors"], "data=vectors is not supported: the advice compares images"),
        (["data=stream"], "data=stream is not supported: the advice compares images"),
        (["data=digits", "model=dann"], "model=dann is not supported by .*; omit model"),
        (["data=digits", "method=[mcc]"], r"method=\[mcc\] is not supported by"),
        (["data=digits", "format=xml"], "format=xml is not a valid format; set format=text"),
        (["data=digits", "samples=0"], "samples=0 is not a number of at least 2; set samples=3000"),
        (["data=digits", "smples=9"], "smples is not a setting; did you mean 'samples'"),
        (["data=digits", "backbone=mobilnet"], "backbone=mobilnet is not a choice of conf/backb"),
        (
            ["data=digits", "backbone=tiny_cnn"],
            "moves the batch-norm statistics of a trained network, but the backbone has random",
        ),
    ],
)
def test_invalid_arguments(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        cli._advise(arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_of_small_images_are_compared_with_a_network_from_scratch(
    tmp_path, trained, monkeypatch
) -> None:
    """Their default network is a pretrained one, whose weights may not be available."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(("dark", "light")):
        (tmp_path / "set" / label).mkdir(parents=True)
        for k in range(60):
            pixels = rng.integers(60 + 90 * number, 100 + 90 * number, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{k}.png")
    monkeypatch.setattr("tl_lightning.training.advice.STEPS", 3)
    shift = "{blur:0.0,brightness:0.9,saturation:1.0,tint:[1.0,1.0,1.0],noise:0.0,seed:0}"
    data = ["data=folder", f"data.root={tmp_path / 'set'}", f"data.target.shift={shift}"]
    data.append("data.val_fraction=0.4")
    network = [item for item in quick(trained) if not item.startswith("data")]
    seen = []
    original = advice_module.first_rule

    def scratch(found):
        seen.append(original(found))
        return RULES[0]

    monkeypatch.setattr(advice_module, "first_rule", scratch)
    advice, _, line = cli.advice_of([*data, *network], 100)
    assert advice.found.small_val is not None
    assert seen[0].name in [rule.name for rule in RULES]
    assert line.endswith("backbone=small_cnn")
    assert "model=dann" in line
    assert trained not in line


@pytest.mark.slow
def test_too_few_images_and_missing_weights(trained, tmp_path) -> None:
    with pytest.raises(DataError, match="the advice needs at least 10 images of each domain, but"):
        cli.advice_of(quick(trained), 5)
    with pytest.raises(CheckpointError, match="not found"):
        cli.advice_of(["data=digits", "backbone=timm", "backbone.weights=/nowhere.pth"], 20)


@pytest.mark.slow
def test_check_data_adds_the_advice(trained, tmp_path, monkeypatch, capsys) -> None:
    settings = ["data=digits", "trainer=cpu"]
    with pytest.raises(SystemExit) as end:
        check_data._check_data(settings)
    assert end.value.code == 0
    hint = "with the same settings, or advice=true, says what to try first"
    assert capsys.readouterr().out.splitlines()[-1].endswith(hint)
    advice = Advice(FOUND, first_rule(FOUND), ESTIMATES, 30.0, 75.0, "2,250 images")
    asked = []

    def answer(overrides):
        asked.append(overrides)
        return advice, "digits", "train.py x"

    monkeypatch.setattr(cli, "advice_of", answer)
    for form in ("table", "json"):
        with pytest.raises(SystemExit):
            check_data._check_data([*settings, "model=dann", "advice=true", f"format={form}"])
        out = capsys.readouterr().out
        assert "model=auto" in out
        assert ("advice" in json.loads(out)) if form == "json" else out.endswith("train.py x\n")
    assert asked == [settings, settings]
    with pytest.raises(ConfigError, match=r"advice=true compares a source with a target, but the"):
        check_data._check_data(["data=digits", "data.target=null", "advice=true"])
