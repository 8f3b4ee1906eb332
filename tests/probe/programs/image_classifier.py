# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network that tells drawn shapes apart."""

import torch
import torch.nn.functional as F
from torch import nn

from settings import Training, settings

FAULTS = ("overflow_layer", "blank_image", "nan_pixel", "log_of_zero")


class Normalize(nn.Module):
    def __init__(self, epsilon):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, images):
        centred = images - images.mean((1, 2, 3), keepdim=True)
        return centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + self.epsilon)


class Block(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2, padding=1)


class Classifier(nn.Module):
    def __init__(self, epsilon):
        super().__init__()
        self.normalize = Normalize(epsilon)
        self.features = nn.Sequential(Block(3, 8), Block(8, 16), Block(16, 16))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        x = self.features(self.normalize(images))
        return self.head(self.dropout(x.mean((2, 3))))


class OwnLoss(nn.Module):
    def forward(self, logits, labels):
        shares = torch.softmax(logits.float() * 300, -1)
        return -torch.log(shares.gather(1, labels[:, None])).mean()


def draw(count):
    """Bright squares in one of five places, on noise; into memory that is not initialised."""
    images = torch.empty(count, 3, 16, 16)
    images.normal_(0, 0.3)
    labels = torch.randint(0, 5, (count,))
    for image, label in zip(images, labels.tolist()):
        image[:, 2 * label : 2 * label + 6, 2 * label : 2 * label + 6] += 1
    return images, labels


def main():
    args = settings(FAULTS)
    model = Classifier(epsilon=0.0 if args.fault == "blank_image" else 1e-5)
    if args.fault == "overflow_layer":
        with torch.no_grad():
            model.features[1].conv.weight.mul_(30000)
    training = Training(model.parameters(), args.precision)
    own_loss = OwnLoss()
    best = torch.tensor(float("inf"))
    for step in range(args.steps):
        images, labels = draw(16)
        if args.fault == "blank_image" and step == 1:
            images[3] = 0.5
        if args.fault == "nan_pixel" and step == 1:
            images.numpy()[5, 1, 2, 3] = float("nan")
        with training.forward():
            logits = model(images)
            loss = own_loss(logits, labels) if args.fault == "log_of_zero" else F.cross_entropy(logits, labels)
        value, norm = training.update(loss)
        best = torch.minimum(best, loss.detach())
        print(f"step {step}: loss {value:.3f}, gradient norm {norm:.2f}")
    model.eval()
    with torch.no_grad():
        images, labels = draw(16)
        right = (model(images).argmax(-1) == labels).float().mean()
    print(f"best {best.item():.3f}, right {right.item():.2f}")


main()
