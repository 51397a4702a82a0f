"""The comparison with other libraries: rows, page, chart, rounds of workers, programs."""

from __future__ import annotations

import ast
import math
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import REPO

PEERS = REPO / "benchmarks" / "peers"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a module of the comparison."""
    monkeypatch.syspath_prepend(str(REPO))

    def load(name: str) -> ModuleType:
        return import_module(f"benchmarks.peers.{name}")

    return load


def row(
    part: Any, better: str, asked: float | None, absolute: bool = False, **values: float
) -> Any:
    rows = part("rows")
    found = {("tl_lightning" if n == "ours" else n): rows.Value(v) for n, v in values.items()}
    return rows.Row("a", "A step", "ms", better, asked, found, absolute=absolute)


@pytest.mark.parametrize(
    ("better", "asked", "absolute", "values", "peer", "ratio", "reached"),
    [
        ("less", 2.0, False, {"ours": 10, "a": 30, "b": 20}, "b", 2.0, True),
        ("less", 2.1, False, {"ours": 10, "a": 30, "b": 20}, "b", 2.0, False),
        ("more", 2.0, False, {"ours": 10, "a": 4, "b": 5}, "b", 2.0, True),
        ("more", None, False, {"ours": 10, "a": 20}, "a", 0.5, None),
        ("less", 2.0, True, {"ours": 2.0, "a": 1.0}, "a", 0.5, True),
        ("less", 1.9, True, {"ours": 2.0}, None, None, False),
        ("less", 2.0, False, {"ours": 2.0}, None, None, None),
        ("less", 2.0, False, {"a": 2.0}, "a", None, None),
    ],
)
def test_ratio_to_the_best_peer(
    part, better, asked, absolute, values, peer, ratio, reached
) -> None:
    found = row(part, better, asked, absolute, **values)
    assert (found.best_peer(), found.ratio(), found.reached()) == (peer, ratio, reached)


def test_ours_with_other_settings_is_not_a_peer(part) -> None:
    found = row(part, "less", None, ours=10, b=30)
    found.values["tl_lightning, method=[align]"] = part("rows").Value(5)
    assert (found.best_peer(), found.ratio()) == ("b", 3.0)


def test_rows_are_stored_and_read(part, tmp_path: Path) -> None:
    rows, file = part("rows"), tmp_path / "a.json"
    assert rows.read(file) == ([], {})
    found = [row(part, "less", 2.0, ours=1.0, b=2.0)]
    rows.write(file, found, {"date": "today"})
    assert rows.read(file) == (found, {"date": "today"})


def test_page_states_misses_with_reason_and_libraries_without_a_figure(part) -> None:
    missed = row(part, "less", 3.0, ours=10.0, b=20.0)
    missed.reason, missed.next_step, missed.absent = "No bfloat16", "a profile", {"c": "no wheel"}
    text = part("page").page([missed], {"date": "2026-12-01", "machine": "2 cores"}, "a.svg")
    assert text.startswith("# Beside other libraries, 2026-12-01\n")
    assert "| A step | 10 ms | 20 (b) | 2.00 | 3x | **missed** |" in text
    assert "**Missed.** No bfloat16\nNext step: a profile." in text
    assert "| c | – | | | no wheel |" in text
    assert "- machine: 2 cores" in text
    assert "](a.svg)" in text
    reached = part("page").page([row(part, "less", 2.0, ours=10.0, b=20.0)], {})
    assert "| 2x | reached |" in reached
    assert "Missed" not in reached
    behind = part("page").page([row(part, "less", 0.5, ours=10.0, b=8.0)], {})
    assert "| 0.5x | reached |" in behind
    assert "**Behind.** The reason is not known." in behind


def test_chart_has_a_bar_for_every_row_with_a_peer(part, tmp_path: Path) -> None:
    found = [row(part, "less", 2.0, ours=1.0, b=k) for k in (1.0, 4.0, 0.5)]
    for k, one in enumerate([*found, row(part, "less", 1.0, absolute=True, ours=1.0)]):
        one.title = f"row {k}"
        found[k:] = [one, *found[k + 1 :]]
    part("chart").draw(found, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert [f"row {k}" in text for k in range(4)] == [True, True, True, False]


WORKER = """
import json, sys
number, name = 0, sys.argv[1]
for line in sys.stdin:
    number += 1
    if name == "bad" and number == 2:
        sys.exit("out of order")
    with open(sys.argv[2], "a") as file:
        file.write(name[0])
    answer = {"seconds": number, "processor": number / 2, "peak_mb": 10 * number, "loss": 0.5}
    print(json.dumps(answer), flush=True)
"""


def test_turns_alternate_and_the_first_is_not_counted(part, tmp_path: Path) -> None:
    order = tmp_path / "order"
    commands = {n: [sys.executable, "-c", WORKER, n, str(order)] for n in ("a", "bad", "c")}
    found = part("rounds").interleaved(commands, range(4), 1)
    assert found["a"].seconds == [2, 3, 4]
    assert found["a"].processor == [1.0, 1.5, 2.0]
    assert (found["a"].peak_mb, found["a"].first_loss) == (40, 0.5)
    assert (found["bad"].seconds, found["bad"].problem) == ([], "out of order")
    assert order.read_text() == "cba" + "ac" + "ca" + "ac"


def test_spread_is_half_of_the_range_between_quartiles(part) -> None:
    assert part("rounds").spread([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx(1 / 3)
    assert part("rounds").spread([5.0]) == 0


def test_environments_have_the_same_torch_and_no_addresses(part) -> None:
    environments = part("environments")
    for name, peer in environments.PEERS.items():
        pinned = environments.pinned(name)
        assert (pinned["torch"], pinned["torchvision"]) == ("2.15.0", "0.29.2"), name
        assert pinned[peer.distribution], name
        lines = (PEERS / "requirements" / f"{name}.txt").read_text().splitlines()
        assert all("==" in line and "/" not in line and "@" not in line for line in lines), name
    assert int(environments.pinned("pytorch_adapt")["setuptools"].split(".")[0]) < 81


def test_an_environment_that_cannot_be_made_has_a_reason(part, tmp_path: Path, monkeypatch) -> None:
    environments = part("environments")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    (tmp_path / "torch.txt").write_text("torch==0.0.0\n")
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    assert environments.make("torch", tmp_path / "envs").problem == "uv is not installed"
    done = tmp_path / "envs" / "torch"
    done.mkdir(parents=True)
    (done / "installed.txt").write_text("torch==0.0.0\n")
    assert environments.make("torch", tmp_path / "envs").problem == ""


def test_network_of_the_peers_is_that_of_our_step(part) -> None:
    """The weights can be copied in their order, and the outputs are then the same."""
    from tl_lightning.api.create import create

    nets = part("nets")
    features, classify, critic = nets.dann_parts()
    own = create("backbone", "small_cnn")
    method = create("method", "dann", in_features=classify.in_features, num_classes=10)
    with torch.no_grad():
        for ours, theirs in ((own, features), (method.discriminator, critic)):
            pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
            for mine, other in pairs:
                mine.copy_(other)
        inputs = nets.normal(nets.images(nets.DANN, domains=2)[0][0][:4])
        own.eval(), features.eval()
        torch.testing.assert_close(own(inputs), features(inputs))
        found = features(inputs)
        torch.testing.assert_close(method.discriminator(found), critic(found))
    spec = own.input_spec
    assert (tuple(spec.mean), tuple(spec.std)) == (nets.MEAN[28], nets.STD[28])


def test_reversal_and_loss_of_the_plain_loop(part) -> None:
    nets = part("nets")
    x = torch.ones(2, requires_grad=True)
    nets.Reverse.apply(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [pytest.approx(-nets.LAMBDA)] * 2
    inputs, labels = nets.images(nets.DANN, domains=2)[0]
    assert (len(inputs), int(inputs[64:].max()) < 128) == (128, True)
    features, classify, critic = nets.dann_parts()
    for layer in (classify, critic[-1]):  # without knowledge: log 10 of the classes, log 2
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    loss = nets.dann_loss((features, classify, critic), inputs, labels)
    assert loss.item() == pytest.approx(math.log(10) + math.log(2), rel=1e-5)


def test_programs_are_counted_without_docstrings_and_use_one_library(part) -> None:
    commands = part("commands")
    for name in commands.PROGRAMS.values():
        text = (PEERS / "programs" / f"{name}.py").read_text()
        assert 15 < commands.lines_of(text) < len(text.splitlines())
        assert "tl_lightning" not in {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.module
        }


def test_domains_are_class_folders_of_different_images(part, tmp_path: Path) -> None:
    from PIL import Image

    root = part("commands").domains(tmp_path, 30)
    for name in ("a", "b"):
        assert len(list((root / name).rglob("*.png"))) == 30
        with Image.open(next((root / name).rglob("*.png"))) as image:
            assert (image.size, image.mode) == ((28, 28), "RGB")


def test_a_counted_turn_is_made_though_the_time_is_over(part) -> None:
    setting = part("setting").Setting({}, None, 5, 1, limit=-1.0)
    assert list(setting.repetitions()) == [0]
    assert list(setting.repetitions(6, least=2)) == [0, 1]


def test_options_are_checked(part, monkeypatch) -> None:
    main = part("__main__").main
    with pytest.raises(SystemExit, match="datas: see the options"):
        main(["environments=a", "datas=b"])
    with pytest.raises(SystemExit, match="environments: see the options"):
        main([])
    with pytest.raises(SystemExit, match="rows=dan: valid are dann, full"):
        main(["environments=a", "rows=dan"])
