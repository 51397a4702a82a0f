"""Worker of ``test_ranks.py``: compares each method's gradients on two ranks and on one.

Writes ``{method: largest difference}`` as JSON, with an error message in place of the difference if
a method cannot be compared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contract.test_methods import CLASSES, METHODS, NODES, arguments, batch, stage_terms
from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import TargetBank
from tl_lightning.training import build as building

PROGRESS = 0.7


def built(name: str, trained: str):
    """Return the model without batch norm, because its statistics differ between ranks."""
    overrides = [*arguments(name, trained), "backbone.norm=false"]
    overrides += ["method.cdan.entropy=true"] if name == "cdan" else []
    # Its values are products of gradients by the scale of large logits.
    overrides += ["method.irm.weight=0.01"] if name == "irm" else []
    overrides += [f"method.{name}.gather=true"] if "gather" in NODES[name] else []
    checked = validation.check(config(*overrides))
    net = building.build_module(checked, tuple(map(str, range(10))), pretrained=False)
    with torch.no_grad():
        net.task.head.classifier[-1].weight.mul_(30)
    if net.teacher is not None:
        net.teacher.before_step(net.backbone, net.task, PROGRESS)
    return net.train()


def gradients(net, whole, stage) -> list[torch.Tensor | None]:
    """Return all parameters' gradients of the task's and the methods' terms."""
    net.zero_grad(set_to_none=True)
    views = net.views(whole)
    terms = net.task_terms(views) | stage_terms(net, views, stage, PROGRESS)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    return [p.grad for p in net.parameters()]


def compare(name: str, trained: str, rank: int, world: int) -> float:
    """Return the largest difference between the ranks' mean gradient and the whole batch's."""
    net = built(name, trained)
    whole = batch(net)
    part = {name: {k: v[rank::world] for k, v in own.items()} for name, own in whole.items()}
    bank = TargetBank(torch.randn(12, 16), torch.randn(12, 10))
    for method in net.methods.values():
        for _ in range(2):  # some do nothing in the first epoch
            method.begin_epoch(bank)
    worst = 0.0
    for stage in net.stages or [None]:
        places = {name: getattr(method, "place", None) for name, method in net.methods.items()}
        buffers = {name: value.clone() for name, value in net.methods.named_buffers()}
        on_ranks = gradients(net, part, stage)
        for name, place in places.items():  # the same step of the same batch
            if place is not None:
                net.methods[name].place = place
        for name, value in net.methods.named_buffers():
            value.copy_(buffers[name])
        with patch("tl_lightning.methods.base.gathered", lambda view: view):
            on_whole = gradients(net, whole, stage)
        for actual, expected in zip(on_ranks, on_whole, strict=True):
            assert (actual is None) is (expected is None)
            if actual is not None:
                mean = actual.clone()
                dist.all_reduce(mean)
                worst = max(worst, float((mean / world - expected).abs().max()))
    return worst


def main(rank: int, store: str, out: str, trained: str) -> None:
    """Compare every method."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    result: dict[str, float | str] = {}
    for name in METHODS:
        torch.manual_seed(0)
        try:
            result[name] = compare(name, trained, rank, 2)
        except ConfigError as error:
            result[name] = str(error)
    assert CLASSES
    Path(f"{out}.{rank}").write_text(json.dumps(result))
    dist.destroy_process_group()  # its threads may abort the process at interpreter shutdown


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
