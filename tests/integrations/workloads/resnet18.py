"""A ResNet-18 for CIFAR-10, a quarter as wide, with crops and flips drawn while loading."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from pkbook.problems.data import cifar10

from .workload import Workload, final, shuffled

MEAN, SPREAD = 0.47, 0.25


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out, inplace=True)


class ResNet18(nn.Module):
    """Four stages of two blocks."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width * 2**stage
            stages += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
            before = after
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Photographs(Dataset):
    """Each visit draws another crop and perhaps a mirror image."""

    def __init__(self, per_class: int = 6) -> None:
        self.images, self.labels = cifar10(per_class=per_class)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        image = functional.pad((self.images[k] - MEAN) / SPREAD, (4, 4, 4, 4))
        top, left = torch.randint(0, 9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image, self.labels[k]


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels, reduction="none")


def scalar(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    model, dataset = ResNet18(), Photographs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    queries = (cifar10("test", per_class=1)[0][:4] - MEAN) / SPREAD
    batches = shuffled(len(dataset), 12, 8, seed)
    return Workload(
        model, optimizer, scheduler, dataset, batches, loss, scalar,
        lambda model, images: model(images), queries, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    for images, labels in w.loader():
        w.optimizer.zero_grad()
        value = functional.cross_entropy(w.model(images), labels)
        value.backward()
        w.optimizer.step()
        w.scheduler.step()
        w.losses.append(value.item())
    return final(w.model)
