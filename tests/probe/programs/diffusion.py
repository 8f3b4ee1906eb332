# SPDX-License-Identifier: Apache-2.0
"""Learns to take the noise off two-dimensional rings, and draws some points in the end."""

import copy
import math

import torch
from torch import nn

from settings import Training, settings

FAULTS = ("variance_by_squares", "last_step", "log_snr", "norm_overflow")
STEPS, WIDTH = 50, 48


class Norm(nn.Module):
    def __init__(self, in_half):
        super().__init__()
        self.in_half = in_half
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        y = x.half() if self.in_half else x.float()
        y = y - y.sum(-1, keepdim=True) / WIDTH
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return y.to(x.dtype) * self.weight


class Spread(nn.Module):
    """The standard deviation over the batch, shown to the network as one more feature."""

    def __init__(self, by_squares):
        super().__init__()
        self.by_squares = by_squares

    def forward(self, x):
        if self.by_squares:
            narrow = x.half() + 50
            return (narrow.square().mean(0) - narrow.mean(0).square()).sqrt().to(x.dtype)
        return (x - x.mean(0)).square().mean(0).sqrt()


class Denoiser(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.spread = Spread(fault == "variance_by_squares")
        self.inner = nn.Linear(2 + 2 + 8, WIDTH)
        self.norms = nn.ModuleList(Norm(fault == "norm_overflow") for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.out = nn.Linear(WIDTH, 2)
        self.gain, self.offset = (100.0, 3000.0) if fault == "norm_overflow" else (1.0, 0.0)

    def forward(self, points, time):
        angles = time[:, None] * torch.tensor([1.0, 3.0, 9.0, 27.0]) / STEPS
        spread = self.spread(points).expand_as(points)
        x = self.inner(torch.cat([points, spread, angles.sin(), angles.cos()], -1)) * self.gain + self.offset
        for norm, layer in zip(self.norms, self.layers):
            x = x + nn.functional.silu(layer(norm(x)), inplace=True)
        return self.out(x)


class Schedule(nn.Module):
    """Shares of signal left, from just below 1 to almost none; `ends` adds the ends, 1 and 0."""

    def __init__(self, ends):
        super().__init__()
        inside = torch.cos(torch.linspace(0.05, 0.98, STEPS) * math.pi / 2).square()
        self.register_buffer("signal", torch.cat([torch.ones(1), inside[1:-1], torch.zeros(1)]) if ends else inside)

    def loss_weight(self, time, by_log):
        signal = self.signal[time]
        if by_log:
            return torch.log(signal / (1 - signal + 1e-6)) + 20
        return 1 / (1 - signal)


@torch.no_grad()
def draw(model, schedule, count):
    points = torch.randn(count, 2)
    for step in reversed(range(STEPS)):
        time = torch.full((count,), step)
        signal = schedule.signal[step]
        noise = model(points, time.float())
        clean = ((points - (1 - signal).sqrt() * noise) / signal.sqrt()).clamp_(-2, 2)
        before = schedule.signal[max(step - 1, 0)]
        points = before.sqrt() * clean + (1 - before).sqrt() * torch.randn_like(points)
    return points


def main():
    args = settings(FAULTS)
    model = Denoiser(args.fault)
    schedule = Schedule(ends=args.fault in ("last_step", "log_snr"))
    averaged = copy.deepcopy(model)
    training = Training(model.parameters(), args.precision, learning_rate=2e-3)
    for step in range(args.steps):
        angle = torch.rand(64) * 2 * math.pi
        points = torch.stack([angle.cos(), angle.sin()], -1)
        time = torch.randint(1, STEPS - 1, (64,))
        if step == 1:
            time[0], time[1] = 0, STEPS - 1
            if args.fault == "log_snr":
                time[0] = 5
        noise = torch.randn_like(points)
        signal = schedule.signal[time][:, None]
        noisy = signal.sqrt() * points + (1 - signal).sqrt() * noise
        with training.forward():
            guess = model(noisy, time.float())
        error = (guess.float() - noise).square().mean(-1)
        loss = (schedule.loss_weight(time, args.fault == "log_snr") * error).mean()
        value, norm = training.update(loss)
        with torch.no_grad():
            for mean, now in zip(averaged.parameters(), model.parameters()):
                mean.lerp_(now, 0.1)
        print(f"step {step}: loss {value:.4f}, gradient norm {norm:.3f}")
    if args.fault == "none":
        print(f"drew points of size {draw(averaged.eval(), schedule, 16).norm(dim=-1).mean().item():.2f}")


main()
