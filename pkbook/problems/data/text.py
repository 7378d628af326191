"""Alice's Adventures in Wonderland as passages of words (PROVENANCE.md beside this file)."""

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from pkbook.problems.data import arguments as check

folder = Path(__file__).parent
checksum = "b89538b45cb0d1722ebc9ae442f586704b741f8704b0de85a74b83e1fad90535"
"""sha256 of ``alice.txt.gz``."""
CHAPTERS = 12
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|--|\S")
"""A word with its apostrophes, a dash, or one mark of punctuation."""
AFTER = set(",.;:!?)]") | {"--"}
"""Marks before which no space is written."""


@dataclass(frozen=True)
class Passages:
    """A text cut into ``n`` passages of ``T`` tokens; a token is a word or a mark.

    >>> told = alice(6, chapters=(7,))
    >>> told.read(told.encode("Twinkle, twinkle, little bat!"))
    'twinkle, twinkle, little bat!'
    """

    x: Tensor
    """Tokens as numbers of their words, int64 ``[n, T]``."""
    y: Tensor
    """The token that follows each of them, int64 ``[n, T]``: what a language model shall say."""
    chapter: Tensor
    """The chapter of each passage, counted from one, int64 ``[n]``."""
    words: tuple[str, ...]
    """The vocabulary: token ``v`` is ``words[v]``, the most frequent first."""

    def part(self, first: int, last: int) -> "Passages":
        """Passages ``first`` up to, not including, ``last``, with a vocabulary of their own.

        >>> told = alice(12, chapters=(7,)).part(66, 162)
        >>> told.x.shape, len(told.words)
        (torch.Size([96, 12]), 342)
        """
        if not 0 <= first < last <= len(self.x):
            raise ValueError(
                f"first, last: expected 0 <= first < last <= {len(self.x)}, the number of "
                f"passages, came {first}, {last}; write part(0, {len(self.x)})"
            )
        x, y = self.x[first:last], self.y[first:last]
        begins = self.chapter[first:last].diff(prepend=self.chapter.new_zeros(1)) != 0
        each_once = torch.cat([x[begins, 0], y.flatten()])
        kept = _often_first([self.words[v] for v in each_once.tolist()])
        moved = torch.zeros(len(self.words), dtype=torch.int64)
        moved[[self._numbers[word] for word in kept]] = torch.arange(len(kept))
        return Passages(moved[x], moved[y], self.chapter[first:last], kept)

    def encode(self, text: str) -> Tensor:
        """A text as tokens, int64 ``[T]``; ``ValueError`` for a word that is not in ``words``."""
        tokens = tokenise(text)
        unknown = [token for token in tokens if token not in self._numbers]
        if unknown:
            raise ValueError(
                f"text must be made of words of these passages, got {unknown[0]!r}; "
                "choose other words, or read more chapters"
            )
        return torch.tensor([self._numbers[token] for token in tokens], dtype=torch.int64)

    def read(self, tokens: Tensor) -> str:
        """Tokens ``[T]`` as a text, in small letters."""
        written = ""
        for number in tokens.tolist():
            word = self.words[number]
            written += word if not written or word in AFTER else f" {word}"
        return written

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def alice(length: int = 16, *, chapters: Sequence[int] | None = None) -> Passages:
    """Lewis Carroll, *Alice's Adventures in Wonderland* (1865), to train a language model on.

    Words are in small letters; marks of punctuation are tokens too.  Each chapter is cut into
    passages of ``length`` tokens, one after the other; the last token of a passage's ``y`` is the
    first of the next one's ``x``.  What is left at the end of a chapter, less than a passage, is
    left out.  The book has 34,088 tokens and 2,643 different ones.

    Args:
        length: tokens of a passage, :math:`T`.
        chapters: which of the twelve, each once; None for all.  The vocabulary is that of the
            chapters chosen.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a length below 1 or longer than a chapter, an unknown chapter or one named
            twice, or a damaged data file.

    Source: public domain.

    >>> told = alice(16, chapters=(7,))
    >>> told.x.shape, len(told.words)
    (torch.Size([193, 16]), 617)
    >>> told.read(told.x[0])
    'chapter vii. a mad tea - party there was a table set out under a'
    """
    check.check_count("length", length)
    chosen = range(1, CHAPTERS + 1) if chapters is None else _checked(chapters)
    texts = [tokenise(_chapters()[c - 1]) for c in chosen]
    shortest = min(map(len, texts))
    if length >= shortest:
        raise ValueError(
            f"length: expected less than {shortest}, the tokens of the shortest of these "
            f"chapters, came {length}; write length=16"
        )
    words = _often_first([token for text in texts for token in text])
    numbers = {word: number for number, word in enumerate(words)}
    x, y, of = [], [], []
    for c, text in zip(chosen, texts, strict=True):
        tokens = torch.tensor([numbers[token] for token in text], dtype=torch.int64)
        n = (len(tokens) - 1) // length
        x.append(tokens[: n * length].reshape(n, length))
        y.append(tokens[1 : n * length + 1].reshape(n, length))
        of.append(torch.full((n,), c))
    return Passages(torch.cat(x), torch.cat(y), torch.cat(of), words)


def tokenise(text: str) -> list[str]:
    """Words in small letters and marks of punctuation, in their order.

    >>> tokenise("'Who ARE you?' said the Caterpillar.")
    ["'", 'who', 'are', 'you', '?', "'", 'said', 'the', 'caterpillar', '.']
    """
    return WORD.findall(text.lower())


def _often_first(tokens: list[str]) -> tuple[str, ...]:
    """Each word once, the most frequent first; equally frequent ones by the alphabet."""
    count = Counter(tokens)
    return tuple(sorted(count, key=lambda word: (-count[word], word)))


def _checked(chapters: object) -> Sequence[int]:
    remedy = "write for example chapters=(7,)"
    if isinstance(chapters, str) or not isinstance(chapters, Sequence):
        raise TypeError(f"chapters: expected whole numbers, came {chapters!r}; {remedy}")
    for c in chapters:
        if isinstance(c, bool) or not isinstance(c, int):
            raise TypeError(f"chapters: expected whole numbers, came {c!r}; {remedy}")
        if not 1 <= c <= CHAPTERS:
            raise ValueError(f"chapters: expected 1 to {CHAPTERS}, came {c}; {remedy}")
    if len(chapters) == 0 or len(set(chapters)) < len(chapters):
        raise ValueError(
            f"chapters: expected at least one and none twice, came {list(chapters)}; {remedy}"
        )
    return chapters


@lru_cache(maxsize=1)
def _chapters() -> list[str]:
    """The text chapter by chapter, each with its heading, after a look at the checksum."""
    path = folder / "alice.txt.gz"
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise ValueError(
            f"{path}: expected a file with sha256 {checksum}, came one with {found}; "
            "the file was changed or cut short, so delete it and install pkbook again"
        )
    text = gzip.decompress(content).decode("ascii")
    return re.split(r"^(?=CHAPTER )", text, flags=re.M)[1:]
