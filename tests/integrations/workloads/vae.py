"""A variational autoencoder of digits; each pass draws its own noise."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from pkbook.problems.data import mnist

from .workload import Workload, final, shuffled


class VAE(nn.Module):
    """Encoder, noise, decoder."""

    def __init__(self, hidden: int = 64, latent: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 784), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance


class Digits(Dataset):
    """Images alone; there is nothing to predict."""

    def __init__(self) -> None:
        self.images, _ = mnist(per_class=8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        return self.images[k]


def loss(model: nn.Module, images: Tensor) -> Tensor:
    """Reconstruction and the distance to the prior, in nats an image."""
    decoded, mean, log_variance = model(images)
    target = images.flatten(1)
    reconstruction = functional.binary_cross_entropy(decoded, target, reduction="none").sum(dim=1)
    prior = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
    return reconstruction + prior


def scalar(model: nn.Module, images: Tensor) -> Tensor:
    return loss(model, images).mean()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Where the images lie in latent space."""
    return model.mean(model.encoder(images))


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    model, dataset = VAE(), Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = shuffled(len(dataset), 16, 15, seed)
    return Workload(
        model, optimizer, None, dataset, batches, loss, scalar, outputs,
        mnist("test", per_class=1)[0][:3], seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    for images in w.loader():
        w.optimizer.zero_grad()
        value = loss(w.model, images).mean()
        value.backward()
        w.optimizer.step()
        w.losses.append(value.item())
    return final(w.model)
