"""Forty short reviews, written for these tests, and a tokenizer that splits at spaces."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

PRAISED = """the soup was warm and the bread was fresh
a kind waiter brought us the best table
we loved the quiet room
the film is bright funny and short
her voice made the old song new again
good coffee
the train was on time and almost empty
my sister laughed through the whole play
this lamp gives a soft and steady light
the path to the lake is easy and green
fresh fish simple sauce happy guests
a clear book that answers every question
the seats are wide and the sound is good
they fixed my bike in an hour and smiled
the garden smells of mint and rain
best pears of the year
the children built a boat and it floats
the new bridge is light and strong
a small museum with a big heart
the guide knew every bird by its name"""

BLAMED = """the soup was cold and the bread was old
a rude waiter lost our order twice
we left the loud room early
the film is long grey and dull
her voice was flat and the song too slow
bad coffee
the train was late and far too full
my brother slept through the whole play
this lamp hums and its light is harsh
the path to the lake is closed and muddy
old fish sour sauce tired guests
a heavy book that answers no question
the seats are hard and the sound is thin
they kept my bike a month and broke it
the garden smells of smoke and oil
worst pears of the year
the boat leaked and the children cried
the new bridge is shut again
a big museum with nothing in it
the guide was lost and we were wet"""

ASKED = [
    "the film was funny and the seats are good",
    "a cold room and a rude guide",
    "the new song is bright and the children laughed",
    "the boat was late and my brother was lost",
]
SENTENCES = PRAISED.split("\n") + BLAMED.split("\n")
PAD, UNKNOWN = 0, 1
WORDS = {w: k for k, w in enumerate(sorted(set(" ".join(SENTENCES).split())), start=2)}
VOCABULARY = len(WORDS) + 2
LONGEST = 16


def tokens(sentence: str) -> list[int]:
    """One number a word."""
    return [WORDS.get(word, UNKNOWN) for word in sentence.split()]


class Reviews(Dataset):
    """Dicts as tokenizers make them: input_ids and, where there are classes, labels."""

    def __init__(self, classes: bool = True) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return len(SENTENCES)

    def __getitem__(self, k: int) -> dict[str, object]:
        sample: dict[str, object] = {"input_ids": tokens(SENTENCES[k])}
        if self.classes:
            sample["labels"] = int(k < len(SENTENCES) // 2)
        return sample


def padded(samples: list[dict]) -> dict[str, Tensor]:
    """The words padded to the longest sentence, a mask, and the labels."""
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    if "labels" in samples[0]:
        batch["labels"] = torch.tensor([sample["labels"] for sample in samples])
    return batch


def next_words(samples: list[dict]) -> dict[str, Tensor]:
    """For a language model: the words are the labels, -100 on padding."""
    batch = padded(samples)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch


def asked() -> dict[str, Tensor]:
    """The queries as one batch without labels."""
    return padded([{"input_ids": tokens(sentence)} for sentence in ASKED])
