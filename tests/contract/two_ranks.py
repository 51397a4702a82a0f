"""Run by ``test_ranks.py`` in two processes: every method's gradients, of halves and of the whole.

Writes ``{method: largest difference}``, or why a method cannot be compared, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contract.test_methods import ADAPTERS, CLASSES, NODES, arguments, batch, stage_terms
from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Bank
from tl_lightning.training import build as building

PROGRESS = 0.7


def built(name: str, trained: str):
    """Return the model with a network that has no batch norm, whose statistics are a rank's own."""
    chosen = [*arguments(name, trained), "backbone.norm=false"]
    chosen += ["adapter.cdan.entropy=true"] if name == "cdan" else []
    chosen += [f"adapter.{name}.gather=true"] if "gather" in NODES[name] else []
    checked = validation.check(config(*chosen))
    net = building.build_module(checked, tuple(map(str, range(10))), pretrained=False)
    with torch.no_grad():
        net.task.head.classifier[-1].weight.mul_(30)
    if net.twin is not None:
        net.twin.before_step(net.backbone, net.task, PROGRESS)
    return net.train()


def gradients(net, whole, stage) -> list[torch.Tensor | None]:
    """Return every parameter's gradient of the task's and the methods' terms."""
    net.zero_grad(set_to_none=True)
    views = net.views(whole)
    terms = net.task_terms(views) | stage_terms(net, views, stage, PROGRESS)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    return [p.grad for p in net.parameters()]


def compare(name: str, trained: str, rank: int, world: int) -> float:
    """Return the largest difference of the ranks' mean gradient and the whole batch's."""
    net = built(name, trained)
    whole = batch(net)
    part = {role: {k: v[rank::world] for k, v in own.items()} for role, own in whole.items()}
    bank = Bank(torch.randn(12, 16), torch.randn(12, 10))
    for adapter in net.methods.values():
        adapter.begin_epoch(bank)
    worst = 0.0
    for stage in net.stages or [None]:
        mine = gradients(net, part, stage)
        with patch("tl_lightning.methods.base.gathered", lambda view: view):
            alone = gradients(net, whole, stage)
        for own, wanted in zip(mine, alone, strict=True):
            assert (own is None) is (wanted is None)
            if own is not None:
                mean = own.clone()
                dist.all_reduce(mean)
                worst = max(worst, float((mean / world - wanted).abs().max()))
    return worst


def main(rank: int, store: str, out: str, trained: str) -> None:
    """Compare every method."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # The places between the domains that a critic is held to are random: the middle, here.
    torch.rand = lambda *size, **where: torch.full(size, 0.5)
    found: dict[str, float | str] = {}
    for name in ADAPTERS:
        torch.manual_seed(0)
        try:
            found[name] = compare(name, trained, rank, 2)
        except ConfigError as error:
            found[name] = str(error)
    assert CLASSES
    Path(f"{out}.{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()  # left to the interpreter's end, its threads may abort the process


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
