# SPDX-License-Identifier: Apache-2.0
"""When things happen: learning rates, validation, hooks, early stopping, checkpoints."""
from __future__ import annotations

import os
import pathlib
import tempfile

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks as cb
from torch import nn
from torch.optim import lr_scheduler

from lightning_golden.common import Counted, INF, Module, NAN, attempt, fp64, numbered_loader, trainer_of


class RateLog(pl.Callback):
    """rates[step][group], of automatic optimisation."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def transposed(rates):
    return [list(group) for group in zip(*rates)]


def scheduler_of(optimizer, name, arguments):
    arguments = dict(arguments)
    if name == "LambdaLR":
        assert arguments["lr_lambda"] == "1/(1+k)"
        arguments["lr_lambda"] = lambda k: 1 / (1 + k)
    if "schedulers" in arguments:
        arguments["schedulers"] = [scheduler_of(optimizer, *inner) for inner in arguments["schedulers"]]
    return getattr(lr_scheduler, name)(optimizer, **arguments)


def schedule_case(name, arguments, interval, frequency=1, accumulate=1, batches=4, manual=False):
    base = [0.1, 0.02]
    extra = [nn.Parameter(fp64([1.0]))]
    kept = {}

    def optimizers(module):
        kept["optimizer"] = optimizer = torch.optim.SGD(
            [{"params": [module.weight], "lr": base[0]}, {"params": extra, "lr": base[1]}], lr=base[0])
        scheduler = scheduler_of(optimizer, name, arguments)
        return [optimizer], [{"scheduler": scheduler, "interval": interval, "frequency": frequency}]

    class Manual(Counted):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.weight.sum())
            self.optimizers().step()

    log = RateLog()
    trainer = trainer_of({} if manual else {"accumulate_grad_batches": accumulate}, [log], max_epochs=3)
    trainer.fit((Manual if manual else Counted)(optimizers=optimizers), numbered_loader(batches))
    return {"scheduler": name, "arguments": arguments, "interval": interval, "frequency": frequency,
            "manual_optimization": manual, "accumulate_grad_batches": accumulate, "max_epochs": 3,
            "batches_per_epoch": batches, "base_lr": base, "lr": transposed(log.rates),
            "lr_after_fit": [group["lr"] for group in kept["optimizer"].param_groups]}


def schedules():
    step = lambda **arguments: ("StepLR", dict(step_size=2, gamma=0.5) | arguments)
    both = [step(), ("ExponentialLR", {"gamma": 0.9}), ("LambdaLR", {"lr_lambda": "1/(1+k)"}),
            ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 2, "eta_min": 0.001}),
            ("LinearLR", {"start_factor": 0.25, "end_factor": 1.0, "total_iters": 4}),
            ("ConstantLR", {"factor": 0.5, "total_iters": 2})]
    cases = [schedule_case(*each, interval) for each in both for interval in ("step", "epoch")]
    for interval, milestones, length, warm_up in (("step", [3, 7], 12, 4), ("epoch", [1, 2], 3, 1)):
        cases += [schedule_case(*each, interval) for each in [
            ("MultiStepLR", {"milestones": milestones, "gamma": 0.1}),
            ("CosineAnnealingLR", {"T_max": length, "eta_min": 0.01}),
            ("PolynomialLR", {"total_iters": length, "power": 1.0}),
            ("PolynomialLR", {"total_iters": length, "power": 2.0}),
            ("SequentialLR", {"schedulers": [
                ["LinearLR", {"start_factor": 0.25, "end_factor": 1.0, "total_iters": warm_up}],
                ["CosineAnnealingLR", {"T_max": length - warm_up, "eta_min": 0.01}]],
                "milestones": [warm_up]})]]
    for strategy in ("cos", "linear"):
        cases.append(schedule_case("OneCycleLR", {"max_lr": [0.1, 0.02], "total_steps": 12,
                                                  "cycle_momentum": False, "anneal_strategy": strategy},
                                   "step"))
    one = step(step_size=1)
    return cases + [
        schedule_case(*one, "step", accumulate=2), schedule_case(*one, "step", accumulate=2, batches=5),
        schedule_case(*one, "step", frequency=2), schedule_case(*one, "step", frequency=2, batches=5),
        schedule_case(*one, "step", frequency=2, accumulate=2),
        schedule_case(*one, "step", frequency=3, accumulate=2, batches=6),
        schedule_case(*one, "epoch", frequency=2), schedule_case(*one, "epoch", accumulate=2),
        schedule_case(*one, "step", manual=True)]


def plateau_case(values, arguments, **config):
    def optimizers(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "value"} | config}

    log = RateLog()
    module = Counted(values, optimizers)
    trainer_of({}, [log], max_epochs=len(values)).fit(module, numbered_loader(1), numbered_loader(1))
    return {"arguments": arguments, "config": config, "base_lr": 0.1, "values": values,
            "lr": transposed(log.rates)[0], "lr_after_fit": module.optimizers().param_groups[0]["lr"]}


def plateau():
    falling = [1.0, 0.9, 0.9, 0.95, 0.91, 0.8, 0.85, 0.84, 0.83, 0.82]
    rising = [0.5, 0.6, 0.6, 0.55, 0.58, 0.7, 0.65, 0.66, 0.69, 0.7]
    tiny = [0.1, 0.09996, 0.09992, 0.09988, 0.09984, 0.0998, 0.09976, 0.09972, 0.099715, 0.099714]
    half = {"mode": "min", "factor": 0.5, "patience": 1}
    cases = [(falling, half), (rising, half | {"mode": "max"}), (falling, half | {"patience": 0}),
             (tiny, half | {"threshold": 1e-4, "threshold_mode": "rel"}),
             (tiny, half | {"threshold": 1e-4, "threshold_mode": "abs"}),
             (rising, half | {"mode": "max", "threshold": 0.25, "threshold_mode": "rel"}),
             (rising, half | {"mode": "max", "threshold": 0.05, "threshold_mode": "abs"}),
             ([1.0] * 10, half | {"cooldown": 1}), ([1.0] * 10, half | {"cooldown": 2, "patience": 0}),
             ([1.0] * 10, half | {"min_lr": 0.02}), ([1.0] * 10, half | {"min_lr": 0.02, "eps": 0.03}),
             ([1.0, NAN, 0.9, NAN, NAN, 0.8, INF, 0.7], half),
             ([NAN, 1.0, 1.0, 1.0, 0.5, -INF, -INF, -INF], half),
             ([-1.0, -1.00005, -1.1, -1.1, -1.1, -1.2, -1.2, -1.2], half)]
    return [plateau_case(*case) for case in cases] + [plateau_case(falling, half, frequency=2)]


# Counts ---------------------------------------------------------------------------------------

class Counter(pl.Callback):
    """Counts batches, and those of each run of validation by loader."""

    def __init__(self, loaders):
        self.loaders, self.sanity, self.runs = loaders, [0] * loaders, []
        self.train_batches, self.started, self.finished = 0, 0, 0
        self.train_ids, self.validation_ids = [], []

    def on_train_epoch_start(self, trainer, module):
        self.started += 1
        self.train_ids.append([])

    def on_train_epoch_end(self, trainer, module):
        self.finished += 1

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.train_batches += 1
        self.train_ids[-1] += batch[0].tolist()

    def on_validation_start(self, trainer, module):
        if not trainer.sanity_checking:
            self.validation_ids.append([])
            self.runs.append({"epoch": trainer.current_epoch, "global_step": trainer.global_step,
                              "train_batches": self.train_batches, "batches": [0] * self.loaders})

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if trainer.sanity_checking:
            self.sanity[dataloader_idx] += 1
        else:
            self.runs[-1]["batches"][dataloader_idx] += 1
            self.validation_ids[-1] += batch[0].tolist()


def counted_run(train_batches, val_batches, options, shuffle, sanity):
    counter = Counter(len(val_batches))
    trainer = trainer_of(options, [counter], num_sanity_val_steps=sanity)
    train = numbered_loader(train_batches, shuffle)
    trainer.fit(Counted(), train, [numbered_loader(count) for count in val_batches])
    result = {"sanity_batches": counter.sanity, "validation_runs": len(counter.runs), "runs": counter.runs,
              "train_batches_run": counter.train_batches, "epochs_started": counter.started,
              "epochs_finished": counter.finished, "global_step": trainer.global_step,
              "current_epoch": trainer.current_epoch}
    if "overfit_batches" in options:
        result |= {"train_ids": counter.train_ids, "validation_ids": counter.validation_ids}
    return result


def validation_case(options, train=5, val=(3,), shuffle=False, sanity=2):
    options = {"max_epochs": 2} | options
    inputs = {"train_batches": train, "val_batches": list(val),
              "options": options | {"num_sanity_val_steps": sanity}} | ({"shuffle": True} if shuffle else {})
    return inputs | attempt(lambda: counted_run(train, val, options, shuffle, sanity))


def validation_runs():
    case = validation_case
    return [
        case({}), case({}, sanity=0), case({}, sanity=-1), case({}, sanity=5), case({}, val=(3, 2)),
        case({}, val=(3, 1), sanity=-1), case({}, val=()),
        case({"val_check_interval": 0.5}), case({"val_check_interval": 0.5}, train=6),
        case({"val_check_interval": 0.25}, train=6), case({"val_check_interval": 0.1}),
        case({"val_check_interval": 1.0}), case({"val_check_interval": 1}), case({"val_check_interval": 2}),
        case({"val_check_interval": 5}), case({"val_check_interval": 6}), case({"val_check_interval": 1.5}),
        case({"val_check_interval": 4, "check_val_every_n_epoch": None}),
        case({"val_check_interval": 7, "check_val_every_n_epoch": None, "max_epochs": 3}),
        case({"check_val_every_n_epoch": 2, "max_epochs": 5}),
        case({"check_val_every_n_epoch": 2, "val_check_interval": 2, "max_epochs": 4}),
        case({"limit_val_batches": 2}), case({"limit_val_batches": 0.5}), case({"limit_val_batches": 0}),
        case({"limit_val_batches": 1}, val=(3, 2)), case({"limit_val_batches": 0.1}),
        case({"limit_val_batches": 9}),
        case({"limit_train_batches": 3}), case({"limit_train_batches": 0.5}),
        case({"limit_train_batches": 0.5}, train=6),
        case({"limit_train_batches": 0}), case({"limit_train_batches": 0.1}),
        case({"limit_train_batches": 9}),
        case({"limit_train_batches": 4, "val_check_interval": 0.5}),
        case({"overfit_batches": 1}, shuffle=True), case({"overfit_batches": 2}),
        case({"overfit_batches": 0.5}),
        case({"overfit_batches": 0.5}, train=6, val=(3, 4)),
        case({"overfit_batches": 2, "limit_train_batches": 4, "limit_val_batches": 1}),
        case({"fast_dev_run": True}), case({"fast_dev_run": 3}), case({"fast_dev_run": 7}),
        case({"fast_dev_run": True, "max_epochs": 5, "val_check_interval": 0.5}, val=(3, 2)),
        case({"max_steps": 7}), case({"max_steps": 7, "max_epochs": -1}), case({"max_steps": 5}),
        case({"max_steps": 0}), case({"max_epochs": 0}), case({"max_steps": 7, "val_check_interval": 2}),
        case({"accumulate_grad_batches": 2}), case({"accumulate_grad_batches": 2, "val_check_interval": 1}),
        case({"accumulate_grad_batches": 3, "max_steps": 3}), case({"accumulate_grad_batches": 9}),
        case({"max_epochs": 3, "min_steps": 12, "max_steps": 6})]


# Hooks ----------------------------------------------------------------------------------------

MODULE_HOOKS = [
    "prepare_data", "setup", "teardown", "configure_model", "configure_callbacks", "configure_optimizers",
    "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad", "backward", "lr_scheduler_step",
    "training_step", "validation_step", "test_step", "predict_step"]


def hooks_of(owner):
    ignored = ("on_gpu", "_batch_transfer")
    return [name for name in dir(owner) if name.startswith("on_") and not name.endswith(ignored)]


def announcing(names, prefix, base):
    """Methods which append their names to self.calls, then do what `base` does."""
    def method(name):
        def call(self, *args, **kwargs):
            self.calls.append(f"{prefix}.{name}")
            return getattr(base, name)(self, *args, **kwargs)
        return call
    return {name: method(name) for name in names}


class PlainModule(Module):
    """`failure` is raised in training_step of batch 1."""

    def __init__(self, failure=None):
        super().__init__([1.0], self.optimizer_and_scheduler)
        self.failure = failure

    @staticmethod
    def optimizer_and_scheduler(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 1)]

    def training_step(self, batch, batch_idx):
        if self.failure and batch_idx == 1:
            raise self.failure
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = predict_step = validation_step


class ManualModule(PlainModule):
    automatic_optimization = False

    @staticmethod
    def optimizer_and_scheduler(module):
        return [torch.optim.SGD(module.parameters(), lr=0.1), torch.optim.SGD(module.parameters(), lr=0.2)]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.weight.sum())
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
            optimizer.step()


def hooked(base, calls, **arguments):
    names = MODULE_HOOKS + hooks_of(pl.LightningModule)
    module = type("Hooked", (base,), announcing(names, "module", base))(**arguments)
    module.calls = calls
    return module


def hooked_callback(calls):
    names = ["setup", "teardown", *hooks_of(pl.Callback)]
    callback = type("HookedCallback", (pl.Callback,), announcing(names, "callback", pl.Callback))()
    callback.calls = calls
    return callback


def hooks_case(name, options, train=3, val=0, method="fit", base=PlainModule, ckpt_path=None, dirpath=None,
               **arguments):
    calls, raised = [], None
    checkpoints = [cb.ModelCheckpoint(dirpath=dirpath)] if dirpath else []
    trainer = trainer_of(options, [hooked_callback(calls), *checkpoints], enable_checkpointing=bool(dirpath))
    module = hooked(base, calls, **arguments)
    loaders = [numbered_loader(count) for count in (train, val) if count]
    try:
        getattr(trainer, method)(module, *loaders, **({"ckpt_path": ckpt_path} if ckpt_path else {}))
    except BaseException as error:
        raised = type(error).__name__
    return {"name": name, "method": method, "options": options, "batches": train, "val_batches": val,
            "manual_optimization": not base.automatic_optimization, "resumed": bool(ckpt_path),
            "checkpoint": bool(dirpath), "raised": raised, "status": trainer.state.status.value,
            "calls": calls}


def hooks():
    once, sanity = {"max_epochs": 1}, {"max_epochs": 1, "num_sanity_val_steps": 1}
    with tempfile.TemporaryDirectory() as path:
        saved = [hooks_case("checkpoint", once, train=2, val=1, dirpath=path)]
        file = str(next(pathlib.Path(path).glob("*.ckpt")))
        saved.append(hooks_case("resume", {"max_epochs": 2}, train=2, val=1, ckpt_path=file))
        saved.append(hooks_case("test_from_checkpoint", {}, train=1, method="test", ckpt_path=file))
    return [
        hooks_case("automatic", sanity | {"accumulate_grad_batches": 2}, val=2),
        hooks_case("two_epochs", {"max_epochs": 2}, train=1, val=1),
        hooks_case("clipped_mid_epoch_validation",
                   once | {"gradient_clip_val": 0.5, "val_check_interval": 1}, train=2, val=1),
        hooks_case("manual_two_optimizers", once, train=2, val=1, base=ManualModule),
        hooks_case("exception", sanity, val=1, failure=ValueError("a test")),
        hooks_case("keyboard_interrupt", once, failure=KeyboardInterrupt()),
        hooks_case("validate", {}, train=2, method="validate"),
        hooks_case("test", {}, train=2, method="test"),
        hooks_case("predict", {}, train=2, method="predict"), *saved]


# Monitored values -----------------------------------------------------------------------------

def early_stopping_case(values, arguments, options=None):
    options = {"max_epochs": len(values)} | (options or {})
    callback = cb.EarlyStopping("value", **arguments)
    counter = Counter(1)
    trainer = trainer_of(options, [callback, counter])
    trainer.fit(Counted(values), numbered_loader(4), numbered_loader(1))
    return {"values": values, "arguments": arguments, "options": options, "batches_per_epoch": 4,
            "stopped_epoch": callback.stopped_epoch, "epochs_run": counter.finished,
            "global_step": trainer.global_step, "reason": callback.stopping_reason.name,
            "wait_count": callback.wait_count, "best_score": callback.best_score.item()}


def early_stopping():
    bowl = [1.0, 0.8, 0.6, 0.7, 0.65, 0.61, 0.6, 0.5, 0.4]
    hill = [0.1, 0.3, 0.5, 0.4, 0.45, 0.5, 0.49, 0.6, 0.7]
    case = early_stopping_case
    return [
        case(bowl, {}), case(bowl, {"patience": 1}), case(bowl, {"patience": 0}), case(bowl, {"patience": 4}),
        case(bowl, {"patience": 5}), case(hill, {"mode": "max"}), case(hill, {"mode": "max", "patience": 1}),
        case([1.0, 0.95, 0.9, 0.85, 0.8, 0.75], {"min_delta": 0.1, "patience": 1}),
        case([1.0, 0.95, 0.9, 0.85, 0.8, 0.75], {"min_delta": 0.0625, "patience": 2}),
        case([1.0, 0.75, 0.5, 0.25, 0.25], {"min_delta": 0.25, "patience": 1}),
        case([0.0, 0.25, 0.5, 0.625, 0.75], {"mode": "max", "min_delta": 0.25, "patience": 2}),
        case([1.0, NAN, 0.5, 0.4], {}), case([1.0, 0.9, INF, 0.4], {}), case([1.0, 0.9, -INF, 0.4], {}),
        case([1.0, NAN, 0.5, NAN, NAN, NAN, 0.4], {"check_finite": False}),
        case([1.0, INF, INF, 0.5, 0.4], {"check_finite": False, "patience": 2}),
        case([NAN, NAN, 1.0, 0.5], {"check_finite": False, "patience": 2}),
        case(bowl, {"stopping_threshold": 0.8}), case(bowl, {"stopping_threshold": 0.65, "patience": 9}),
        case(hill, {"mode": "max", "stopping_threshold": 0.3, "patience": 9}),
        case([1.0, 2.0, 2.5, 0.5], {"divergence_threshold": 2.0, "patience": 9}),
        case([0.5, 0.4, 0.2, 0.1], {"mode": "max", "divergence_threshold": 0.3, "patience": 9}),
        case(bowl, {"patience": 1}, {"min_epochs": 6}), case(bowl, {"patience": 1}, {"min_epochs": 9}),
        case([1.0, NAN, 0.5, 0.4, 0.3], {}, {"min_epochs": 4}),
        case(bowl, {"patience": 1}, {"min_steps": 18}),
        case(hill, {"patience": 1}, {"check_val_every_n_epoch": 2}),
        case(bowl, {"patience": 1}, {"val_check_interval": 2})]


def files_in(path):
    files = []
    for file in sorted(os.listdir(path)):
        saved = torch.load(os.path.join(path, file), weights_only=False)
        link = {"link": True} if os.path.islink(os.path.join(path, file)) else {}
        files.append({"name": file, "epoch": saved["epoch"], "global_step": saved["global_step"]} | link)
    return files


def top_k_run(values, arguments, options):
    with tempfile.TemporaryDirectory() as path:
        callback = cb.ModelCheckpoint(dirpath=path, **arguments)
        trainer = trainer_of(options, [callback], enable_checkpointing=True, max_epochs=len(values))
        trainer.fit(Counted(values), numbered_loader(2), numbered_loader(1))
        files = files_in(path)
        best = os.path.basename(callback.best_model_path)
        score = callback.best_model_score
        return {"files": files, "best_model": best or None,
                "last_model": os.path.basename(callback.last_model_path) or None,
                "best_epoch": next((file["epoch"] for file in files if file["name"] == best), None),
                "best_score": None if score is None else score.item()}


def top_k_case(values, arguments, options=None, monitor="value"):
    arguments = ({"monitor": monitor} if monitor else {}) | arguments
    inputs = {"values": values, "arguments": arguments, "options": options or {}, "batches_per_epoch": 2}
    return inputs | attempt(lambda: top_k_run(values, arguments, options or {}))


def top_k():
    values, ties = [0.5, 0.3, 0.4, 0.2, 0.6], [0.5, 0.5, 0.4, 0.4, 0.4]
    odd, case = [NAN, 0.5, NAN, 0.4, 0.6], top_k_case
    return [
        *[case(values, {"save_top_k": k}) for k in (1, 2, 3, -1, 0)],
        *[case(values, {"mode": "max", "save_top_k": k}) for k in (1, 2, 3)],
        *[case(ties, {"save_top_k": k}) for k in (1, 2, 3)], case(ties, {"mode": "max", "save_top_k": 2}),
        *[case(odd, {"save_top_k": k}) for k in (1, 2, 3)], case(odd, {"mode": "max", "save_top_k": 2}),
        case([0.5, NAN, 0.4], {"save_top_k": 1}), case([NAN, NAN, NAN], {"save_top_k": 2}),
        case([INF, 0.5, -INF, 0.1], {"save_top_k": 2}),
        case(values, {"save_top_k": 2, "save_last": True}),
        case(values, {"save_top_k": 1, "save_last": "link"}),
        case(values, {"save_top_k": 0, "save_last": True}),
        case(values, {"save_top_k": -1, "save_last": True}),
        case(values, {"save_last": True, "every_n_epochs": 2}),
        case(values, {"save_top_k": -1, "every_n_epochs": 2}),
        case(values, {"save_top_k": 2, "every_n_epochs": 2}),
        case(values, {}, monitor=None), case(values, {"save_top_k": -1}, monitor=None),
        case(values, {"save_last": True}, monitor=None), case(values, {"save_top_k": 2}, monitor=None),
        case(values, {"save_top_k": -1, "every_n_train_steps": 3}, monitor=None),
        case(values, {"save_top_k": 1, "every_n_train_steps": 3}, monitor=None),
        case(values, {"save_top_k": 2, "every_n_train_steps": 1}),
        case(values, {"save_top_k": -1}, {"check_val_every_n_epoch": 2}),
        case(values, {"save_top_k": 2, "filename": "best-{epoch}-{value:.2f}"}),
        case(values, {"save_top_k": 2, "filename": "best"}),
        case(values, {"monitor": "absent"}), case(values, {"save_top_k": -2})]


# Averaged weights -----------------------------------------------------------------------------
