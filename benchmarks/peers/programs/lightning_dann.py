"""DANN in plain Lightning: images in class folders of two domains; continues after a kill."""

import sys

import lightning as L
import torch
from benchmarks.peers.nets import Reverse, dann_parts
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

root, folder, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Dann(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.features, self.classify, self.critic = dann_parts()
        self.register_buffer("domains", torch.cat([torch.ones(64), torch.zeros(64)]))

    def training_step(self, batch, index):
        (images, labels), (others, _) = batch
        found = self.features(torch.cat([images, others]))
        loss = nn.functional.cross_entropy(self.classify(found[:64]), labels)
        logits = self.critic(Reverse.apply(found)).squeeze(1)
        return loss + nn.functional.binary_cross_entropy_with_logits(logits, self.domains)

    def on_train_batch_end(self, *_):
        print("step", flush=True)

    def on_train_epoch_end(self):
        print("epoch", self.current_epoch, flush=True)

    def test_step(self, batch, index):
        images, labels = batch
        hits = self.classify(self.features(images)).argmax(1) == labels
        self.log("accuracy", hits.float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


view = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
source, target = (ImageFolder(f"{root}/{name}", view) for name in ("a", "b"))
loaders = [DataLoader(data, 64, shuffle=True, drop_last=True) for data in (source, target)]
trainer = L.Trainer(
    max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False,
    callbacks=[ModelCheckpoint(folder, save_last=True)],
)  # fmt: skip
model = Dann()
trainer.fit(model, CombinedLoader(loaders, "min_size"), ckpt_path="last")
trainer.test(model, DataLoader(target, 256))
