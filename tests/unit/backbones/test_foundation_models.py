"""Named backbones for DINOv2, DINOv3, CLIP and SigLIP, with random weights."""

from __future__ import annotations

import pytest
import torch

from helpers import compose
from tl_lightning.config.validation import check as validation

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5,) * 3, (0.5,) * 3

#: Size in pixels, mean and standard deviation, number of features, last layer group.
NETWORKS = {
    "vit_small_patch14_dinov2": (224, IMAGENET, 384, "blocks.11"),
    "vit_base_patch14_dinov2": (224, IMAGENET, 768, "blocks.11"),
    "vit_small_patch16_dinov3": (256, IMAGENET, 384, "blocks.11"),
    "vit_base_patch16_clip_224": (224, CLIP, 768, "blocks.11"),
    "vit_base_patch16_siglip_224": (224, HALF, 768, "attn_pool"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    """On the meta device, which computes only shapes."""
    size, (mean, std), width, last = NETWORKS[name]
    overrides = ["model=fine_tuning", "data=folder", f"backbone={name}", "layer_decay=0.75"]
    overrides += ["backbone.pretrained=false", "optimizer=adamw", "trainer=cpu"]
    run = validation.check(compose(overrides))
    with torch.device("meta"):
        net = run.backbone.build().eval()
        assert net(torch.zeros(2, 3, size, size)).shape == (2, width)
    assert net.out_features == width
    spec = net.input_spec
    assert (spec.size, spec.mean, spec.std) == (size, mean, std)
    assert spec.interpolation == "bicubic"
    assert net.lr_factor * run.lr == pytest.approx(1e-5)
    groups = [group.name for group in net.layer_groups()]
    assert groups[0] == "patch_embed"
    assert [f"blocks.{k}" for k in range(12)] == groups[1:13]
    assert groups[-1] == last


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_named_exactly(name: str) -> None:
    """Without a tag, another version of timm may load other weights."""
    timm = pytest.importorskip("timm")
    node = compose([f"backbone={name}"]).backbone
    assert node.pretrained is True
    architecture, _, tag = node.name.partition(".")
    assert architecture == name
    assert tag
    assert timm.is_model_pretrained(node.name)
