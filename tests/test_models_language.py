"""The small GPT: counted by hand, written out with loops, known to the kernels tensor by tensor."""

import pytest
import torch
from torch import nn

from pkbook import gradient_kernel
from pkbook.basics.parameters import trainable
from pkbook.kernels.plan import plan
from pkbook.problems.models import gpt

WORDS = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))


def counted(model):
    return sum(p.numel() for p in model.parameters())


def small_gpt(blocks=2):
    return gpt(9, 6, width=8, heads=2, blocks=blocks, seed=0).double()


@pytest.mark.parametrize("blocks", [1, 3])
def test_gpt_parameters_by_hand(blocks):
    d = 12
    block = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    model = gpt(50, 7, width=d, heads=3, blocks=blocks, seed=0)
    assert counted(model) == 50 * d + 7 * d + blocks * block + 2 * d
    assert counted(model) == (50 + 7) * d + blocks * (12 * d**2 + 13 * d) + 2 * d
    assert model.head.weight is model.tokens.weight


def test_gpt_is_its_formula():
    """Written out token by token with loops: what a place reads is itself and what came before."""
    model = small_gpt()
    z = model.tokens.weight[WORDS] + model.places.table.weight
    for block in (model.block1, model.block2):
        a = block.norm1(z)
        q, k, v = (
            a @ w.T + b
            for w, b in zip(
                block.attention.ask.weight.chunk(3), block.attention.ask.bias.chunk(3), strict=True
            )
        )
        rows = torch.zeros_like(z)
        for n in range(4):
            for t in range(6):
                for h in (slice(0, 4), slice(4, 8)):
                    heard = (k[n, : t + 1, h] @ q[n, t, h] / 2).softmax(0)
                    rows[n, t, h] = heard @ v[n, : t + 1, h]
        z = z + rows @ block.attention.mix.weight.T + block.attention.mix.bias
        z = z + block.fc2(nn.functional.gelu(block.fc1(block.norm2(z))))
    expected = model.norm(z) @ model.tokens.weight.T
    torch.testing.assert_close(model(WORDS), expected, rtol=1e-12, atol=1e-12)


def test_gpt_reads_from_left_to_right_and_starts_undecided():
    model = small_gpt()
    changed = WORDS.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 9
    torch.testing.assert_close(model(WORDS)[:, :4], model(changed)[:, :4])
    assert (model(WORDS) - model(changed))[:, 4:].abs().min() > 0
    torch.testing.assert_close(model(WORDS[:, :3]), model(WORDS)[:, :3])
    p = gpt(500, 6, seed=0)(WORDS).softmax(-1)
    assert p.max() < 3 / 500


def test_kernel_of_gpt_is_that_of_naive_autograd_and_no_tensor_is_left_to_autograd():
    model = small_gpt()
    found = gradient_kernel(model, WORDS[:2], WORDS[1:], of=(5, 3))

    def rows(words):
        values = model(words)[:, 5, 3]
        grads = [torch.autograd.grad(v, model.parameters(), retain_graph=True) for v in values]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])

    torch.testing.assert_close(found, rows(WORDS[:2]) @ rows(WORDS[1:]).T, rtol=1e-10, atol=1e-14)
    parameters = trainable(model)
    assert plan(model, WORDS, parameters).covered == frozenset(parameters)
