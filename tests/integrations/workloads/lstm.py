"""An LSTM reads packed sequences of unequal length and says whether their sum is positive."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import Dataset

from .workload import Workload, final, shuffled


class Network(nn.Module):
    """Two layers with dropout between them; the head reads the last state."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, hidden, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(hidden, 2)

    def forward(self, padded: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        return self.head(state[-1])


class Sequences(Dataset):
    """Tuples of a sequence [length, 2] and a class."""

    def __init__(self, samples: int = 60) -> None:
        lengths = torch.randint(3, 12, (samples,)).tolist()
        self.sequences = [torch.randn(length, 2) for length in lengths]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        return self.sequences[k], int(self.sequences[k][:, 0].sum() > 0)


def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    sequences, classes = zip(*samples, strict=True)
    lengths = torch.tensor([len(s) for s in sequences])
    return pad_sequence(list(sequences), batch_first=True), lengths, torch.tensor(classes)


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    padded, lengths, classes = batch
    return functional.cross_entropy(model(padded, lengths), classes, reduction="none")


def scalar(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return loss(model, batch).mean()


def make(seed: int = 0) -> Workload:
    torch.manual_seed(seed)
    model, dataset = Network(), Sequences()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97)
    batches = shuffled(len(dataset), 12, 20, seed)
    queries = collate([Sequences(4)[k] for k in range(4)])[:2]  # four: inputs, lengths
    return Workload(
        model, optimizer, scheduler, dataset, batches, loss, scalar,
        lambda model, queries: model(*queries), queries, collate=collate, max_norm=1.0, seed=seed,
    )  # fmt: skip


def train_plain(w: Workload) -> dict[str, Tensor]:
    torch.manual_seed(w.seed)
    w.model.train()
    for padded, lengths, classes in w.loader():
        w.optimizer.zero_grad()
        value = functional.cross_entropy(w.model(padded, lengths), classes)
        value.backward()
        nn.utils.clip_grad_norm_(w.model.parameters(), w.max_norm)
        w.optimizer.step()
        w.scheduler.step()
        w.losses.append(value.item())
    return final(w.model)
