"""Self-training: pseudo-labels of the teacher, and updates of the teacher."""

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

PARAMS = {"threshold": 0.8, "momentum": 0.9, **PENALTY}


def teacher_and_student():
    given = views(4, 4)
    teacher = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.1, 0, 0], [0, 0, 9.0]], requires_grad=True)
    given["target"].teacher_logits = teacher
    student = torch.randn(4, 3, requires_grad=True)
    given["target_strong"] = View(torch.randn(4, 6), student)
    return given, teacher, student


def test_uncertain_samples_count_as_zero_in_the_mean() -> None:
    given, _, student = teacher_and_student()
    result = built(SelfTraining, **PARAMS)(given, context())["selftraining"]
    losses = [
        functional.cross_entropy(student[i], torch.tensor(c)) for i, c in ((0, 0), (1, 1), (3, 2))
    ]
    assert result.item() == pytest.approx(sum(losses).item() / 4, rel=1e-5)


def test_only_the_strong_view_has_a_gradient() -> None:
    given, teacher, student = teacher_and_student()
    weak = given["target"].logits
    terms = built(SelfTraining, **PARAMS)(given, context())
    of_teacher, of_weak, of_student = gradients(terms, teacher, weak, student)
    assert of_teacher is None
    assert of_weak is None
    assert of_student[2].abs().sum() == 0  # below the threshold
    assert (of_student[[0, 1, 3]].abs().sum(1) > 0).all()


@pytest.mark.slow
def test_the_teacher_is_a_moving_average(tmp_path, monkeypatch) -> None:
    """Including batch norm statistics; it is in evaluation mode and is never trained."""
    from tl_lightning.models.adaptation import DomainAdaptation

    students, teachers = [], []
    original = DomainAdaptation.optimizer_step

    def watch(self, *args, **kwargs):
        original(self, *args, **kwargs)
        students.append({k: v.clone() for k, v in self.backbone.state_dict().items()})
        teachers.append({k: v.clone() for k, v in self.teacher.backbone.state_dict().items()})
        assert not self.teacher.backbone.training
        assert not any(p.requires_grad for p in self.teacher.parameters())

    monkeypatch.setattr(DomainAdaptation, "optimizer_step", watch)
    training.fit(
        config("model=self_training", "method.self_training.momentum=0.75", "trainer.max_epochs=1"),
        tmp_path,
    )
    for name, value in teachers[1].items():
        if value.is_floating_point():
            expected = 0.75 * teachers[0][name] + 0.25 * students[1][name]
            assert torch.allclose(value, expected, atol=1e-6)
    assert any((teachers[0][k] != students[0][k]).any() for k in students[0])


def test_teacher_logits_depend_only_on_the_teacher_and_the_weak_view() -> None:
    """They depend neither on the student's weights nor on the strong view."""
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
    teacher = given["target"].teacher_logits
    assert torch.allclose(teacher, given["target"].logits, atol=1e-6)  # identical at the start
    with torch.no_grad():
        for part in (net.backbone, net.task):
            for parameter in part.parameters():
                parameter.add_(0.1)
    batch["target"]["strong"] = 255 - strong
    given = net.views(batch)
    assert torch.equal(given["target"].teacher_logits, teacher)
    assert not torch.allclose(given["target"].logits, teacher, atol=1e-3)


@pytest.mark.slow
def test_the_teacher_is_updated_right_after_the_optimizer_step(tmp_path, monkeypatch) -> None:
    """With gradient accumulation, three batches take two steps."""
    from tl_lightning.models.adaptation import DomainAdaptation
    from tl_lightning.models.teacher import Teacher

    steps, updates = [], []
    original, original_update = DomainAdaptation.optimizer_step, Teacher.after_step

    def step(self, *args, **kwargs):
        before = [p.detach().clone() for p in self.backbone.parameters()]
        steps.append((self.batches, before))
        original(self, *args, **kwargs)

    def watch(self, backbone, task):
        updates.append([p.detach().clone() for p in backbone.parameters()])
        original_update(self, backbone, task)

    monkeypatch.setattr(DomainAdaptation, "optimizer_step", step)
    monkeypatch.setattr(Teacher, "after_step", watch)
    arguments = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    training.fit(config("model=self_training", *arguments), tmp_path)
    assert [batch for batch, _ in steps] == [1, 2]  # the last batch of an epoch always steps
    for (_, before), after in zip(steps, updates, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_strong_views_are_deterministic_per_sample() -> None:
    from tl_lightning.data.transforms.strong import StrongView
    from tl_lightning.types import InputSpec

    strong = StrongView(InputSpec(16, (0.5,) * 3, (0.5,) * 3))
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    once, again = (strong(images, range(8)) for _ in "ab")
    assert torch.equal(once, again)
    assert torch.equal(strong(images[3:5], [3, 4]), once[3:5])  # depends only on the sample's seed
    assert (once != images).float().mean() > 0.3
    assert once.dtype == torch.uint8
