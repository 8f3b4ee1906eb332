# SPDX-License-Identifier: Apache-2.0
"""Small modules and loaders that the cases share."""
from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


NAN, INF = math.nan, math.inf
X = [1.0, 2.0, -1.0, 0.5, 3.0, -2.0, 0.25, 1.5]
Y = [2.0, 3.5, -0.5, 1.0, 5.0, -3.0, 1.25, 2.0]
START = [0.5, -0.25]  # weight and bias of Line


def trainer_of(options, callbacks=(), **others):
    quiet = dict(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                 enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0)
    return pl.Trainer(**(quiet | others | options), callbacks=list(callbacks))


def fp64(value):
    return torch.tensor(value, dtype=torch.float64)


def loader_of(*columns, batch_size):
    return DataLoader(TensorDataset(*[fp64(column) for column in columns]), batch_size)


def numbered_loader(batches, shuffle=False):
    """Batches of one sample, which is the number of the batch."""
    return DataLoader(TensorDataset(torch.arange(batches)), 1, shuffle=shuffle)


def attempt(function):
    """The result of function() as a dict, or its error with the first sentence of the message."""
    try:
        return function()
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error).strip().split("\n")[0].split(". ")[0]}


class Module(pl.LightningModule):
    """One fp64 parameter; `optimizers` makes what configure_optimizers() returns."""

    def __init__(self, start, optimizers=None):
        super().__init__()
        self.weight = nn.Parameter(fp64(start))
        self.make_optimizers = optimizers or (lambda module: torch.optim.SGD(module.parameters(), lr=0.1))

    def configure_optimizers(self):
        return self.make_optimizers(self)


class Counted(Module):
    """Its loss is the sum of its weights; `monitored[epoch]` is what validation logs as "value"."""

    def __init__(self, monitored=None, optimizers=None):
        super().__init__([1.0], optimizers)
        self.monitored = monitored

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if self.monitored is not None:
            self.log("value", fp64(self.monitored[self.current_epoch]))


class Line(Module):
    """Least squares with weight and bias; keeps the parameters that validation sees."""

    def __init__(self, optimizers=None):
        super().__init__(START, optimizers)
        self.validated = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.weight[0] * x + self.weight[1], y)

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.validated.append(self.weight.tolist())


class AfterStep(pl.Callback):
    """Calls `function` after each batch that ends in a step of an optimizer."""

    def __init__(self, function):
        self.function, self.last_step = function, 0

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step > self.last_step:
            self.last_step = trainer.global_step
            self.function()


# Learning rates -------------------------------------------------------------------------------
