"""Self-training: who teaches whom, and when."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from helpers import config
from methods import PENALTY, built, context, gradients, views
from tl_lightning.config.validation import check as validation
from tl_lightning.methods.self_training import SelfTraining
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import View

KNOBS = {"threshold": 0.8, "momentum": 0.9, **PENALTY}


def lesson():
    given = views(4, 4)
    teacher = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.1, 0, 0], [0, 0, 9.0]], requires_grad=True)
    given["target"].twin_logits = teacher
    student = torch.randn(4, 3, requires_grad=True)
    given["target_strong"] = View(torch.randn(4, 6), student)
    return given, teacher, student


def test_the_mean_over_all_of_the_loss_of_the_sure() -> None:
    given, _, student = lesson()
    found = built(SelfTraining, **KNOBS)(given, context())["selftraining"]
    losses = [
        functional.cross_entropy(student[i], torch.tensor(c)) for i, c in ((0, 0), (1, 1), (3, 2))
    ]
    assert found.item() == pytest.approx(sum(losses).item() / 4, rel=1e-5)


def test_only_the_strong_view_of_the_student_learns() -> None:
    given, teacher, student = lesson()
    weak = given["target"].logits
    terms = built(SelfTraining, **KNOBS)(given, context())
    of_teacher, of_weak, of_student = gradients(terms, teacher, weak, student)
    assert of_teacher is None
    assert of_weak is None
    assert of_student[2].abs().sum() == 0  # the teacher is not sure of this one
    assert (of_student[[0, 1, 3]].abs().sum(1) > 0).all()


def test_the_teacher_is_the_average_of_the_steps(tmp_path, monkeypatch) -> None:
    """Batch norm's statistics included; it answers in evaluation mode and never learns."""
    from tl_lightning.models.adaptation import DomainAdaptation

    seen, followed = [], []
    honest = DomainAdaptation.optimizer_step

    def watch(self, *args, **kwargs):
        honest(self, *args, **kwargs)
        seen.append({k: v.clone() for k, v in self.backbone.state_dict().items()})
        followed.append({k: v.clone() for k, v in self.twin.backbone.state_dict().items()})
        assert not self.twin.backbone.training
        assert not any(p.requires_grad for p in self.twin.parameters())

    monkeypatch.setattr(DomainAdaptation, "optimizer_step", watch)
    training.fit(
        config(
            "model=self_training", "adapter.self_training.momentum=0.75", "trainer.max_epochs=1"
        ),
        tmp_path,
    )
    for name, value in followed[1].items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * followed[0][name] + 0.25 * seen[1][name], atol=1e-6)
    assert any((followed[0][k] != seen[0][k]).any() for k in seen[0])


def test_the_teacher_answers_alone_for_the_weak_view() -> None:
    """Neither the student's head nor the strong pictures have a say."""
    settings = config("model=self_training")
    net = building.build_module(validation.check(settings), tuple(map(str, range(10)))).eval()
    g = torch.Generator().manual_seed(0)
    weak, strong = (
        torch.randint(0, 256, (4, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "ws"
    )
    index = torch.arange(4)
    batch = {
        "source": {"inputs": weak, "labels": index, "index": index},
        "target": {"inputs": weak, "strong": strong, "index": index},
    }
    given = net.views(batch)
    teacher = given["target"].twin_logits
    assert torch.allclose(teacher, given["target"].logits, atol=1e-6)  # they begin alike
    with torch.no_grad():
        for part in (net.backbone, net.task):
            for parameter in part.parameters():
                parameter.add_(0.1)
    batch["target"]["strong"] = 255 - strong
    given = net.views(batch)
    assert torch.equal(given["target"].twin_logits, teacher)
    assert not torch.allclose(given["target"].logits, teacher, atol=1e-3)


def test_the_teacher_follows_right_after_a_step_of_the_optimizer(tmp_path, monkeypatch) -> None:
    """Of three batches two end in a step; the teacher moves towards what the step has left."""
    from tl_lightning.models.adaptation import DomainAdaptation
    from tl_lightning.models.teacher import Twin

    steps, follows = [], []
    honest, follow = DomainAdaptation.optimizer_step, Twin.after_step

    def step(self, *args, **kwargs):
        before = [p.detach().clone() for p in self.backbone.parameters()]
        steps.append((self.batches, before))
        honest(self, *args, **kwargs)

    def watch(self, backbone, task):
        follows.append([p.detach().clone() for p in backbone.parameters()])
        follow(self, backbone, task)

    monkeypatch.setattr(DomainAdaptation, "optimizer_step", step)
    monkeypatch.setattr(Twin, "after_step", watch)
    arguments = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    training.fit(config("model=self_training", *arguments), tmp_path)
    assert [batch for batch, _ in steps] == [1, 2]  # an epoch's last batch steps, alone or not
    for (_, before), after in zip(steps, follows, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_strong_view_is_the_same_picture_changed() -> None:
    from tl_lightning.data.transforms.strong import StrongView
    from tl_lightning.types import InputSpec

    strong = StrongView(InputSpec(16, (0.5,) * 3, (0.5,) * 3))
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    once, again = (strong(pictures, range(8)) for _ in "ab")
    assert torch.equal(once, again)
    assert torch.equal(strong(pictures[3:5], [3, 4]), once[3:5])  # a matter of the sample's seed
    assert (once != pictures).float().mean() > 0.3
    assert once.dtype == torch.uint8
