"""DANN with PyKale's trainer: images in class folders of two domains; continues after a kill."""

import sys

import pytorch_lightning as pl
from benchmarks.peers.nets import LAMBDA, dann_parts
from kale.loaddata.multi_domain import MultiDomainDataset, MultiDomainImageFolder
from kale.pipeline.domain_adapter import DANNTrainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torchvision import transforms

root, folder, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Shown(pl.Callback):
    def on_train_batch_end(self, *_):
        print("step", flush=True)

    def on_train_epoch_end(self, trainer, _):
        print("epoch", trainer.current_epoch, flush=True)


view = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
access = MultiDomainImageFolder(root, transform=view, return_domain_label=True)
data = MultiDomainDataset(access, random_state=0)
features, classify, critic = dann_parts()
critic[-1] = nn.Linear(512, 2)
model = DANNTrainer(
    dataset=data, feature_extractor=features, task_classifier=classify, critic=critic,
    target_domain="b", lambda_init=LAMBDA, nb_init_epochs=0, nb_adapt_epochs=epochs, batch_size=64,
)  # fmt: skip
trainer = pl.Trainer(
    max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False,
    callbacks=[ModelCheckpoint(folder, save_last=True), Shown()],
)  # fmt: skip
trainer.fit(model, ckpt_path="last")
trainer.test(model)
