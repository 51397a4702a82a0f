"""Settings of other frameworks, and what they are called here."""

from __future__ import annotations

from collections.abc import Iterable

from tl_lightning.errors import nearest

__all__ = ["elsewhere", "hint"]

#: What users of lightning-hydra-template, timm and fastai type, and the setting that does it here.
_ELSEWHERE = {
    "resume=<run folder or .ckpt>":
        "ckpt_path, checkpoint, resume_from_checkpoint, initial_checkpoint",
    "scripts/evaluate.py, which only tests": "train, eval, evaluate",
    "tags=[...]": "task_name, run_name, experiment_name, extras",
    "hydra.run.dir=<folder>": "paths, output, output_dir, log_dir, default_root_dir, save_dir",
    "debug=default, limit, overfit or profiler": "fdr, dev_run",
    "trainer.fast_dev_run=true": "fast_dev_run",
    "trainer.overfit_batches=<number>": "overfit_batches",
    "optimizer.lr=<rate>": "lr, learning_rate, lr_max, base_lr",
    "optimizer=<name>": "opt, opt_func, optim",
    "optimizer.weight_decay=<value>": "weight_decay, wd",
    "optimizer.momentum=<value>": "momentum",
    "scheduler=<name>": "sched, lr_scheduler, schedule",
    "scheduler.warmup=<fraction of the run>": "warmup, warmup_epochs, warmup_steps",
    "layer_decay=<factor>": "lr_layer_decay",
    "trainer.max_epochs=<number>": "epochs, n_epochs, num_epochs, n_epoch, max_epochs",
    "trainer.max_steps=<number>": "steps, max_steps, num_steps",
    "trainer.devices=<number>": "devices, gpus, num_gpus, ngpus, gpu_ids, num_devices",
    "trainer.accelerator=<cpu or gpu>, and trainer.devices=<number>":
        "device, accelerator, cuda, cpu, gpu, use_cuda, no_cuda",
    "trainer.precision=bf16-mixed": "amp, precision, fp16, bf16, to_fp16, mixed_precision, half",
    "trainer.accumulate_grad_batches=<number>":
        "grad_accum, grad_accum_steps, gradient_accumulation_steps",
    "trainer.gradient_clip_val=<value>": "clip_grad, grad_clip, gradient_clip_val",
    "data.batch_size=<number>": "batch_size, bs",
    "data.eval_batch_size=<number>":
        "eval_batch_size, val_bs, val_batch_size, validation_batch_size, test_batch_size",
    "data.steps_per_epoch=<number>": "steps_per_epoch",
    "data.val_fraction=<fraction>": "val_fraction, valid_pct, val_split, validation_split",
    "data.test_fraction=<fraction>": "test_fraction, test_size",
    "data.classes=[<first>,<second>]": "class_names, classes",
    "data.source.root=<folder>": "source_root, source_dir, source_data",
    "data.target.root=<folder>": "target_root, target_dir, target_data",
    "data.source.domain=<name>": "source, source_domain, src",
    "data.target.domain=<name>": "target, target_domain, tgt, trg",
    "data.num_workers=<number>": "num_workers, workers",
    "data.root=<folder>":
        "data_dir, data_path, data_root, root, path, train_dir, image_dir, img_dir",
    "data=<name>": "dataset, dataset_name, datamodule, dls",
    "data.mixup_alpha=<value>": "mixup",
    "data.cutmix_alpha=<value>": "cutmix",
    "data.augment=<name>": "aa, augment, augmentation, item_tfms, batch_tfms",
    "data.transform._target_=<class>": "transform, transforms",
    "backbone=<name>": "arch, architecture, model_name, backbone_name, net, network, encoder",
    "backbone.pretrained=false": "pretrained",
    "backbone.size=<pixels>":
        "img_size, image_size, input_size, target_size, crop_size, resolution, size",
    "head.dropout=<probability>": "drop, drop_rate, dropout",
    "loss.label_smoothing=<value>": "smoothing, label_smoothing",
    "callbacks=ema": "model_ema, ema",
    "phases=head_first": "freeze_epochs, unfreeze, freeze",
    "method=[<name>]": "methods, algorithm, adaptation",
    "scripts/tune.py": "hparams_search, optimized_metric, sweep",
    "compile=true": "torchcompile, torch_compile",
    "seed=0": "random_seed, manual_seed, seed_everything",
    "data=<name>, whose classes are counted": "num_classes, n_classes",
}  # fmt: skip
_HERE = {name: here for here, names in _ELSEWHERE.items() for name in names.split(", ")}


#: Sections whose unknown keys may be settings of other sections.
_SECTIONS = (
    "backbone.",
    "data.",
    "head.",
    "loss.",
    "model.",
    "optimizer.",
    "scheduler.",
    "trainer.",
)


def elsewhere(name: str) -> str:
    """Return the setting that does here what ``name`` does in another framework, or nothing.

    >>> elsewhere("batch-size"), elsewhere("seed")
    ('data.batch_size=<number>', '')
    """
    return _HERE.get(name.replace("-", "_"), "")


def hint(name: str, known: Iterable[str], section: str = "") -> str:
    """Return what to set instead of an unknown setting.

    Args:
        name: Its last part.
        known: The settings next to it.
        section: What it is in, such as ``data.``; empty at the top level.

    >>> hint("ckpt_path", ["seed"])
    'use resume=<run folder or .ckpt>'
    >>> hint("sed", ["seed"])
    "did you mean 'seed'?"
    >>> hint("image_size", ["root"], "data.")
    'use backbone.size=<pixels>'

    A dataset without the setting that others have:

    >>> hint("root", ["source", "target"], "data.")
    'valid: source, target'
    """
    found = elsewhere(name) if section in ("", *_SECTIONS) else ""
    if found.partition("=")[0] == f"{section}{name}":
        found = ""
    return f"use {found}" if found else nearest(name, known)
