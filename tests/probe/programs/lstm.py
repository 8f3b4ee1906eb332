# SPDX-License-Identifier: Apache-2.0
"""Forecasts a series with an LSTM, from measurements and the time of day."""

import torch
import torch.nn.functional as F
from torch import nn

from settings import Training, settings

FAULTS = ("nan_weight", "root_of_zero", "large_feature", "sum_overflow")


class Features(nn.Module):
    """Measurements beside the seconds since midnight, which are large unless they are scaled."""

    def __init__(self, scales):
        super().__init__()
        self.scales = scales

    def forward(self, series, seconds, dtype):
        time = seconds / 86400 if self.scales else seconds
        return torch.stack([series.to(dtype), time.to(dtype)], -1)


class Smoothness(nn.Module):
    """How far the states move: a distance, whose slope at 0 is infinite without an epsilon."""

    def __init__(self, epsilon):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, states):
        moves = (states - states.detach()).square().sum(-1)
        return (moves + self.epsilon).sqrt().mean()


class Energy(nn.Module):
    def forward(self, states):
        return states.square().sum()


class Forecaster(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.features = Features(scales=fault != "large_feature")
        self.lstm = nn.LSTM(2, 24, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(24, 1)

    def forward(self, series, seconds, dtype):
        inputs = self.features(series, seconds, dtype).float()
        with torch.autocast("cpu", enabled=False):  # not every CPU has an fp16 LSTM
            states, _ = self.lstm(inputs)
        return self.head(states).squeeze(-1), states


def main():
    args = settings(FAULTS)
    model = Forecaster(args.fault)
    smoothness = Smoothness(0.0 if args.fault == "root_of_zero" else 1e-6)
    energy = Energy()
    training = Training(model.parameters(), args.precision, learning_rate=3e-3)
    dtype = torch.float16 if args.precision == "fp16" else torch.float32
    worst = torch.full((), -float("inf"))
    for step in range(args.steps):
        if args.fault == "nan_weight" and step == 2:
            saved = model.head.state_dict()
            saved["weight"] = torch.full_like(saved["weight"], float("nan"))
            model.head.load_state_dict(saved)
        seconds = (torch.randint(0, 86400, (8, 1)) + 60 * torch.arange(41)).float() % 86400
        series = torch.sin(seconds / 3600) + 0.1 * torch.randn_like(seconds)
        with training.forward():
            forecast, states = model(series[:, :-1], seconds[:, :-1], dtype)
            loss = F.smooth_l1_loss(forecast.float(), series[:, 1:]) + 0.1 * smoothness(states.float())
            if args.fault == "sum_overflow":
                loss = loss + 1e-6 * energy(states.half() * 100).float()
        value, norm = training.update(loss)
        worst = torch.maximum(worst, loss.detach())
        print(f"step {step}: loss {value:.4f}, gradient norm {norm:.3f}")
    print(f"worst {worst.item():.4f}")


main()
