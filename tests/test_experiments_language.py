"""A language model's words, taken apart: against plain autograd, and what its parts add up to."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pkbook as pk
from pkbook.lab.experiments import language
from pkbook.lab.plots import marked_words

TINY = language.Config(
    first=0, last=40, length=6, width=8, rate=0.02, warm=2, size=4, steps=5, nodes=3
)


def passages():
    """Eight passages of six tokens around the first one that has a star in it."""
    told = pk.data.alice(6, chapters=(7,))
    first = int((told.x == told.words.index("twinkle")).any(1).nonzero()[0, 0])
    return told.part(first - 4, first + 4)


def test_training_is_the_plain_loop():
    told = passages()
    recorded = language.train(TINY, told)
    net = pk.models.gpt(len(told.words), 6, width=8, blocks=1, seed=0)
    adamw = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
    for k, batch in enumerate(pk.batches(8, size=4, steps=5, seed=0)):
        adamw.param_groups[0]["lr"] = 0.02 * min((k + 1) / 2, 1 - k / 5)
        adamw.zero_grad()
        f = net(told.x[batch])
        nll = -f.log_softmax(-1).gather(2, told.y[batch][..., None])
        nll.mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adamw.step()
    for p, q in zip(net.parameters(), recorded.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_prompts_of_other_lengths_are_asked_at_their_own_last_token():
    told = passages()
    prompts = [("twinkle", ","), (told.read(told.x[4]), told.words[told.y[4, -1]])]
    asked = language.ask(told, prompts)
    net = pk.models.gpt(len(told.words), 6, width=8, blocks=1, seed=0)
    found = language.log_probability(net, asked)
    for (prompt, word), value in zip(prompts, found, strict=True):
        alone = F.log_softmax(net(told.encode(prompt)[None])[0, -1], 0)
        torch.testing.assert_close(value, alone[told.encode(word)[0]])
    with pytest.raises(ValueError, match="prompts must have 1 to 6 tokens each, got 7"):
        language.ask(told, [("twinkle, twinkle, twinkle, twinkle", ",")])


def test_the_first_step_is_that_of_the_tokens_own_gradients():
    """One tiny step of SGD in float64: each token's share by its own loss's gradient."""
    told = passages()
    net = pk.models.gpt(len(told.words), 6, width=8, blocks=1, seed=0).double()
    sgd = torch.optim.SGD(net.parameters(), lr=1e-6)
    run = pk.Trajectory(net, language.next_word, sgd, (told.x, told.y))
    run.step([1, 4, 6])
    asked = language.ask(told, [("twinkle,", "twinkle")])
    one = run.interpolate(asked, of=language.log_probability, by_token=True, tolerance=None)
    start = run.model_at(0)
    weights = list(start.parameters())
    phi = torch.autograd.grad(language.log_probability(start, asked)[0], weights)
    losses = F.cross_entropy(start(told.x).transpose(1, 2), told.y, reduction="none")
    shares = torch.zeros(8, 6, dtype=torch.float64)
    for i in (1, 4, 6):
        for t in range(6):
            grads = torch.autograd.grad(losses[i, t], weights, retain_graph=True)
            shares[i, t] = -1e-6 / 18 * sum((a * g).sum() for a, g in zip(phi, grads, strict=True))
    gap = (one.by_token[..., 0, 0] - shares).abs().max()
    assert gap < 1e-4 * shares.abs().max()


def test_all_that_is_added_up_closes():
    told = language.run(TINY, [("the", "march")]).told
    assert told.by_token.shape == (40, 6, 1, 1)
    torch.testing.assert_close(told.by_token.sum(1), told.contributions)
    torch.testing.assert_close(sum(told.by_parameter.values()), told.contributions)
    assert float(told.completeness.max()) < 1e-3


def test_presets():
    full = language.Config.full()
    told = full.passages()
    net = pk.models.gpt(len(told.words), full.length, width=full.width, blocks=full.blocks)
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 3e6
    quick = language.Config.quick()
    assert quick == language.Config()
    assert [language.pace(quick, k) for k in (0, quick.steps)] == [1 / quick.warm, 0]
    for prompt, word in language.PROMPTS:
        assert language.ask(quick.passages(), [(prompt, word)])[0].shape == (1, quick.length)


def test_marked_words():
    marked = marked_words(["a<b", "c", "d"], [2.0, -0.4, 0.01], most=2.0)
    assert "a&lt;b<sub>\N{THIN SPACE}+2.00</sub>" in marked
    assert "rgba(213, 94, 0, 0.40)" in marked
    assert "rgba(0, 114, 178, 0.08)" in marked
    assert "c<sub>\N{THIN SPACE}\N{MINUS SIGN}0.40</sub>" in marked
    assert marked.count("dotted") == marked.count("solid") == 1
    assert marked.endswith(" <span>d</span>")
    with pytest.raises(ValueError, match="one number for each of 1 words, got 2"):
        marked_words(["a"], [1.0, 2.0], most=1.0)
    with pytest.raises(ValueError, match="most must be a positive number, got 0"):
        marked_words(["a"], [1.0], most=0)
