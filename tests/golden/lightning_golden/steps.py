# SPDX-License-Identifier: Apache-2.0
"""What steps do: averages of weights, optimizers by hand, clipping, accumulation, logging, names."""
from __future__ import annotations

import os
import random
import tempfile

import lightning.pytorch as pl
import numpy
import torch
import torch.nn.functional as F
from lightning.pytorch import callbacks as cb
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lightning_golden.common import (
    AfterStep, INF, Line, Module, NAN, START, X, Y, attempt, fp64, loader_of, trainer_of)

from lightning_golden.loops import Counter, RateLog, transposed


class Normalized(pl.LightningModule):
    """BatchNorm1d of two features and a Linear whose weight starts at START, in fp64."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, dtype=torch.float64)
        self.linear = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(fp64([START]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.linear(self.norm(x)).squeeze(1), y)

    def values(self):
        return {name: value.tolist() for name, value in self.state_dict().items()}


FEATURES = [[X[i], Y[(3 * i + 1) % 8]] for i in range(8)]


class CheckpointLog(pl.Callback):
    """What a checkpoint at the end of each epoch holds."""

    def __init__(self):
        self.saved = []

    def on_train_epoch_end(self, trainer, module):
        with tempfile.TemporaryDirectory() as path:
            trainer.save_checkpoint(f"{path}/c.ckpt")
            saved = torch.load(f"{path}/c.ckpt", weights_only=False)
        self.saved.append({"state_dict": saved["state_dict"]["weight"].tolist(),
                           "current_model_state": saved["current_model_state"]["weight"].tolist(),
                           "n_averaged": saved["averaging_state"]["n_averaged"].item()})


def ema_case(arguments, options=None, kind="EMAWeightAveraging"):
    options = {"max_epochs": 2} | (options or {})
    average = getattr(cb, kind)(**arguments)
    module, steps, checkpoints = Line(), [], CheckpointLog()

    def keep():
        steps.append((module.weight.tolist(), average._average_model.module.weight.tolist()))

    trainer = trainer_of(options, [average, AfterStep(keep), checkpoints])
    trainer.fit(module, loader_of(X, Y, batch_size=2), loader_of(X[:1], Y[:1], batch_size=1))
    weights, averaged = transposed(steps)
    return {"callback": kind, "arguments": arguments, "options": options, "x": X, "y": Y, "batch_size": 2,
            "start": START, "lr": 0.1, "weights": weights, "averaged": averaged,
            "validated": module.validated, "checkpoints": checkpoints.saved,
            "final": module.weight.tolist()}


def ema_batch_norm_case(arguments):
    average = cb.EMAWeightAveraging(**arguments)
    module, steps = Normalized(), []
    keep = lambda: steps.append({"current": module.values(),
                                 "averaged": average._average_model.module.values()})
    trainer = trainer_of({"max_epochs": 1}, [average, AfterStep(keep)])
    trainer.fit(module, loader_of(FEATURES, Y, batch_size=4))
    return {"callback": "EMAWeightAveraging", "arguments": arguments, "batch_norm": True,
            "options": {"max_epochs": 1}, "x": FEATURES, "y": Y, "batch_size": 4, "lr": 0.1, "steps": steps,
            "final": module.values()}


def ema():
    case = lambda options=None, **arguments: ema_case({"decay": 0.9} | arguments, options)
    return [
        case(), case(decay=0.5), case(update_every_n_steps=2), case(update_every_n_steps=3),
        case(update_starting_at_step=3), case(update_starting_at_step=3, update_every_n_steps=2),
        case(update_starting_at_epoch=1), case(update_starting_at_epoch=1, update_every_n_steps=0),
        case(update_starting_at_epoch=0, update_starting_at_step=100), case(update_starting_at_step=100),
        case({"accumulate_grad_batches": 2}), case({"val_check_interval": 2}),
        ema_case({}, kind="WeightAveraging"),
        ema_batch_norm_case({"decay": 0.5}), ema_batch_norm_case({"decay": 0.5, "use_buffers": False})]


class EpochLog(pl.Callback):
    """weights[epoch] at the end of each."""

    def __init__(self, read):
        self.read, self.values = read, []

    def on_train_epoch_end(self, trainer, module):
        self.values.append(self.read(module))


def swa_case(arguments, module, x, batch_size, options=None, scheduler=None):
    options = {"max_epochs": 8} | (options or {})
    read = (lambda m: m.values()) if isinstance(module, Normalized) else (lambda m: m.weight.tolist())
    average, rates, epochs = cb.StochasticWeightAveraging(**arguments), RateLog(), EpochLog(read)
    counter = Counter(0)
    trainer = trainer_of(options, [average, rates, epochs, counter])
    trainer.fit(module, loader_of(x, Y, batch_size=batch_size))
    result = {"arguments": arguments, "options": options, "scheduler": scheduler, "x": x, "y": Y,
              "batch_size": batch_size, "batch_norm": isinstance(module, Normalized), "start": START,
              "base_lr": 0.1}
    if isinstance(module, Normalized):  # whose final weights are one stale step away from the average
        parameters = average._average_model.named_parameters()
        result["averaged"] = {name: value.tolist() for name, value in parameters}
    return result | {
        "lr": transposed(rates.rates), "epoch_ends": epochs.values, "final": read(module),
        "n_averaged": int(average.n_averaged), "training_steps": counter.train_batches,
        "epochs_finished": counter.finished, "global_step": trainer.global_step,
        "current_epoch": trainer.current_epoch}


def swa():
    def line(options=None, scheduler=None, **arguments):
        def optimizers(module):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            return [optimizer], [lr_scheduler.ExponentialLR(optimizer, **scheduler[1])] if scheduler else []
        return swa_case({"swa_lrs": 0.02} | arguments, Line(optimizers), X, 4, options, scheduler)

    cases = [line(), line(swa_epoch_start=0.5), line(swa_epoch_start=4), line(swa_epoch_start=1)]
    for strategy in ("cos", "linear"):
        for epochs in (0, 1, 3):
            cases.append(line(swa_epoch_start=0.5, annealing_epochs=epochs, annealing_strategy=strategy))
    cases += [line({"accumulate_grad_batches": 2}, swa_epoch_start=0.5, annealing_epochs=2),
              line(scheduler=["ExponentialLR", {"gamma": 0.9}], swa_epoch_start=0.5, annealing_epochs=2,
                   annealing_strategy="linear")]
    norm = {"swa_lrs": 0.02, "swa_epoch_start": 0.5, "annealing_epochs": 2}
    return cases + [swa_case(norm, Normalized(), FEATURES, 4, {"max_epochs": 4})]


# Manual optimisation, clipping, accumulation --------------------------------------------------

REAL = [[[1.0, 2.0], [0.5, 1.5], [2.0, 1.0]], [[1.5, 2.5], [1.0, 0.5], [0.25, 3.0]]]
NOISE = [[[0.5, -1.0], [1.0, 0.25], [-0.5, 2.0]], [[-1.5, 0.75], [0.125, 1.0], [2.0, -0.25]]]


class Adversarial(pl.LightningModule):
    """Scores d . x + c; the generator scales noise by g and adds b. Discriminator first, then generator."""

    automatic_optimization = False

    def __init__(self, optimizer):
        super().__init__()
        self.d, self.c = nn.Parameter(fp64([0.5, -0.25])), nn.Parameter(fp64(0.125))
        self.g, self.b = nn.Parameter(fp64([0.75, 1.25])), nn.Parameter(fp64([0.0, -0.5]))
        self.make, self.losses, self.weights, self.steps = optimizer, [], [], []

    def configure_optimizers(self):
        return [self.make([self.d, self.c]), self.make([self.g, self.b])]

    def score(self, x):
        return x @ self.d + self.c

    def update(self, optimizer, loss_of):
        self.toggle_optimizer(optimizer)
        loss = loss_of()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        return loss.item()

    def training_step(self, batch, batch_idx):
        real, noise = batch
        fake = lambda: noise * self.g + self.b
        first, second = self.optimizers()
        judge = self.update(first, lambda: F.softplus(-self.score(real)).mean()
                            + F.softplus(self.score(fake().detach())).mean())
        forge = self.update(second, lambda: F.softplus(-self.score(fake())).mean())
        self.losses.append([judge, forge])
        self.weights.append({"d": self.d.tolist(), "c": self.c.item(), "g": self.g.tolist(),
                             "b": self.b.tolist()})
        self.steps.append(self.trainer.global_step)


def adversarial_case(name, arguments):
    module = Adversarial(lambda parameters: getattr(torch.optim, name)(parameters, **arguments))
    trainer = trainer_of({"max_epochs": 3})
    trainer.fit(module, DataLoader(list(zip(fp64(REAL), fp64(NOISE))), batch_size=None))
    return {"case": "adversarial", "optimizer": name, "arguments": arguments, "real": REAL, "noise": NOISE,
            "max_epochs": 3, "losses": module.losses, "weights": module.weights,
            "global_step_in_training_step": module.steps, "global_step": trainer.global_step}


class ManualLine(Line):
    """Steps after each `accumulate` batches on the mean of their gradients; clips to the norm `clip`."""

    automatic_optimization = False

    def __init__(self, accumulate=1, clip=None):
        super().__init__()
        self.accumulate, self.clip, self.weights = accumulate, clip, []

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0:
            if self.clip:
                self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
        self.weights.append(self.weight.tolist())


def manual_line_case(accumulate=1, clip=None):
    module = ManualLine(accumulate, clip)
    trainer = trainer_of({"max_epochs": 1})
    trainer.fit(module, loader_of(X, Y, batch_size=2))
    return {"case": "line", "optimizer": "SGD", "arguments": {"lr": 0.1}, "accumulate": accumulate,
            "clip_norm": clip, "x": X, "y": Y, "batch_size": 2, "start": START, "weights": module.weights,
            "global_step": trainer.global_step}


def refused_manual_case(options):
    run = lambda: trainer_of(options | {"max_epochs": 1}).fit(ManualLine(), loader_of(X, Y, batch_size=2))
    return {"case": "refused", "options": options} | attempt(run)


def manual():
    adam = {"lr": 0.01, "betas": [0.5, 0.999]}
    return [adversarial_case("SGD", {"lr": 0.1}), adversarial_case("Adam", adam), manual_line_case(),
            manual_line_case(accumulate=2), manual_line_case(clip=0.1),
            manual_line_case(accumulate=2, clip=0.1),
            refused_manual_case({"gradient_clip_val": 0.5}),
            refused_manual_case({"accumulate_grad_batches": 2})]


GRADIENTS = [[3.0, -4.0, 0.25], [0.1, 0.2, -0.2], [-0.75, 12.0, 0.5], [0.0, 0.0, 0.0]]


class Sloped(Module):
    """Each batch is the gradient of the weights: two in one parameter, one in another."""

    def __init__(self):
        super().__init__([1.0, 2.0])
        self.other = nn.Parameter(fp64([3.0]))
        self.norms = []

    def training_step(self, batch, batch_idx):
        return (batch[0] * torch.cat([self.weight, self.other])).sum()

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(torch.cat([self.weight.grad, self.other.grad]).norm().item())


def clipping_run(options, gradients):
    module, weights = Sloped(), []
    keep = AfterStep(lambda: weights.append(module.weight.tolist() + module.other.tolist()))
    trainer_of(options, [keep], max_epochs=1).fit(module, loader_of(gradients, batch_size=1))
    return {"norms_before_clipping": module.norms, "weights": weights}


def clipping_case(options, gradients=GRADIENTS):
    inputs = {"options": options, "gradients": gradients, "start": [1.0, 2.0, 3.0], "lr": 0.1}
    return inputs | attempt(lambda: clipping_run(options, gradients))


def clipping():
    case = lambda value, algorithm, **options: clipping_case(
        {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm} | options)
    return [case(None, None), case(1.0, "norm"), case(1.0, None), case(5.0, "norm"), case(0.5, "value"),
            case(0, "norm"), case(0, "value"), case(-1.0, "norm"),
            case(1.0, "norm", accumulate_grad_batches=2),
            case(0.5, "value", accumulate_grad_batches=2), case(1.0, "other"),
            clipping_case({"gradient_clip_val": 1.0}, [[1.0, NAN, 1.0], [1.0, 0.0, 0.0]]),
            clipping_case({"gradient_clip_val": 1.0}, [[1.0, INF, 1.0], [1.0, 0.0, 0.0]]),
            clipping_case({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
                          [[1.0, INF, -INF], [NAN, 0.0, 0.0]])]


class Skipping(Line):
    """training_step returns None for the batches in `skipped`."""

    def __init__(self, skipped, optimizers=None):
        super().__init__(optimizers)
        self.skipped = skipped

    def training_step(self, batch, batch_idx):
        return None if batch_idx in self.skipped else super().training_step(batch, batch_idx)


def accumulation_case(options, batches=5, skipped=()):
    options = {"max_epochs": 2} | options
    x, y = (X * 2)[:2 * batches], (Y * 2)[:2 * batches]
    module, weights = Skipping(skipped), []
    trainer = trainer_of(options, [AfterStep(lambda: weights.append(module.weight.tolist()))])
    trainer.fit(module, loader_of(x, y, batch_size=2))
    return {"options": options, "skipped_batches": list(skipped), "x": x, "y": y, "batch_size": 2,
            "start": START, "lr": 0.1, "optimizer_steps": trainer.global_step, "weights": weights}


def accumulation():
    case = accumulation_case
    return [case({}), case({"accumulate_grad_batches": 2}), case({"accumulate_grad_batches": 3}),
            case({"accumulate_grad_batches": 7}),
            case({"accumulate_grad_batches": 2, "limit_train_batches": 3}),
            case({}, skipped=(1,)), case({"accumulate_grad_batches": 2}, skipped=(1,)),
            case({"accumulate_grad_batches": 2}, skipped=(2,)),
            case({"accumulate_grad_batches": 2, "max_steps": 2})]


# Logging --------------------------------------------------------------------------------------

SAMPLES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]


class ListLogger(Logger):
    """Keeps what it is given."""

    name, version = "list", 0

    def __init__(self):
        self.entries = []

    def log_metrics(self, metrics, step=None):
        self.entries.append({"step": step, "metrics": dict(metrics)})

    def log_hyperparams(self, *args, **kwargs):
        pass


class Logging(Module):
    """Logs the mean of each batch of samples, in `where`."""

    def __init__(self, where, arguments, batch_size):
        super().__init__([1.0])
        self.where, self.arguments, self.given = where, arguments, batch_size

    def value(self, batch, where):
        if where == self.where:
            size = len(batch[0]) if self.given == "actual" else self.given
            self.log("a", batch[0].mean(), batch_size=size, **self.arguments)

    def training_step(self, batch, batch_idx):
        self.value(batch, "training_step")
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.value(batch, "validation_step")


def logging_case(where, arguments, batch_size="actual", options=None):
    options = {"max_epochs": 2, "log_every_n_steps": 2} | (options or {})
    logger = ListLogger()
    trainer = trainer_of(options, logger=logger)
    data = loader_of(SAMPLES, batch_size=4)
    trainer.fit(Logging(where, arguments, batch_size), data, data)
    return {"in": where, "arguments": arguments, "batch_size_given": batch_size, "options": options,
            "samples": SAMPLES, "batch_size": 4, "logged": logger.entries,
            "callback_metrics": {name: value.item() for name, value in trainer.callback_metrics.items()}}


def logging_cases():
    both = {"on_step": True, "on_epoch": True}
    cases = [logging_case(where, arguments) for where in ("training_step", "validation_step")
             for arguments in ({}, {"on_step": True, "on_epoch": False},
                               {"on_step": False, "on_epoch": True}, both)]
    cases += [logging_case("training_step", both | {"reduce_fx": reduce}) for reduce in ("sum", "max", "min")]
    return cases + [logging_case("training_step", both, size) for size in (None, 1)] + [
        logging_case("training_step", both | {"logger": False}),
        logging_case("training_step", both | {"prog_bar": True}),
        logging_case("training_step", both, options={"accumulate_grad_batches": 2, "log_every_n_steps": 1}),
        logging_case("validation_step", both, options={"val_check_interval": 1, "max_epochs": 1}),
        logging_case("training_step", both, options={"fast_dev_run": True})]


def log_steps_case(every, accumulate=1, batches=5):
    logger = ListLogger()
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    if every is not None:
        options["log_every_n_steps"] = every
    module = Logging("training_step", {}, "actual")
    trainer_of(options, logger=logger).fit(module, loader_of(SAMPLES[:batches], batch_size=1))
    return {"options": options, "batches_per_epoch": batches,
            "steps": [entry["step"] for entry in logger.entries],
            "values": [entry["metrics"]["a"] for entry in logger.entries], "samples": SAMPLES[:batches]}


def log_steps():
    return ([log_steps_case(every) for every in (0, 1, 2, 3, 7, 50, None)]
            + [log_steps_case(every, 2) for every in (1, 2, 3)])


# Names ----------------------------------------------------------------------------------------

def seed_case(seed, workers=False, environment=None):
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    for name in names:
        os.environ.pop(name, None)
    if environment is not None:
        os.environ[names[0]] = environment
    random.seed(99), numpy.random.seed(99), torch.manual_seed(99)
    read = lambda: {"random": random.getstate(), "numpy": numpy.random.get_state()[1].tolist(),
                    "torch": torch.get_rng_state().tolist()}
    before = read()
    result = attempt(lambda: {"returned": pl.seed_everything(seed, workers=workers, verbose=False)})
    after = read()
    result["seeded"] = [name for name in before if before[name] != after[name]]
    result["environment_after"] = {name: os.environ.pop(name, None) for name in names}
    return {"seed": seed, "workers": workers, "PL_GLOBAL_SEED": environment} | result


def seed_everything():
    return [seed_case(7), seed_case(7, workers=True), seed_case(None), seed_case(None, environment="11"),
            seed_case(None, environment="eleven"), seed_case(7, environment="11"), seed_case("7"),
            seed_case("seven"), seed_case(7.9), seed_case(0), seed_case(-1),
            seed_case(2**32 - 1), seed_case(2**32)]


def precision_case(precision):
    def read():
        plugin = trainer_of({"precision": precision}).precision_plugin
        return {"resolved": plugin.precision, "plugin": type(plugin).__name__}
    return {"given": precision} | attempt(read)


def precision_aliases():
    return [precision_case(each) for each in [
        None, 16, "16", "16-mixed", "16-true", "bf16", "bf16-mixed", "bf16-true", 32, "32", "32-true", 64,
        "64", "64-true", "transformer-engine", "transformer-engine-float16", 8, "8", "fp16", "half",
        "BF16-mixed", ""]]


def accelerator_case(**options):
    def read():
        trainer = trainer_of(options)
        return {"accelerator": type(trainer.accelerator).__name__,
                "strategy": type(trainer.strategy).__name__,
                "num_devices": trainer.num_devices}
    return {"options": options} | attempt(read)


def accelerators():
    case = accelerator_case
    names = ("auto", "cpu", "gpu", "cuda", "mps", "tpu", "CPU", "other", None)
    counts = ("auto", "1", 2, 0, -1, "0", "0,", [0], [], "two")
    return ([case(accelerator=name, devices=1) for name in names]
            + [case(accelerator="cpu", devices=count) for count in counts]
            + [case(accelerator="auto", devices="auto")])


# The file -------------------------------------------------------------------------------------
