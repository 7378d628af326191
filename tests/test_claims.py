"""Claims: judged as they say, shown where they miss, refused where they make no sense."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pkbook as pk
from pkbook.lab import claims
from pkbook.lab.claims import Bounds, Record, as_html, as_text, from_json


@dataclass
class Fitted:
    value: float
    low: float
    high: float


@pytest.fixture
def made(monkeypatch):
    """The records of the claims that a test makes, instead of showing them."""
    kept = []
    monkeypatch.setattr(claims, "_show", kept.append)
    monkeypatch.delenv(claims.VARIABLE, raising=False)
    return kept


CASES = [
    (1.5, {"above": 1, "below": 2}, True, 0.5),
    (2.0, {"below": 2}, False, 0.0),
    (2.0, {"most": 2}, True, 0.0),
    (2.1, {"below": 2}, False, -0.1),
    (torch.tensor([1.0, 3.0]), {"least": 1}, True, 0.0),
    ([1.0, 0.5], {"least": 1}, False, -0.5),
    (np.array([1.0, 0.5]), {"least": 0.7, "by": "mean"}, True, 0.05),
    (Fitted(1.0, 0.8, 1.3), {"above": 0.9, "below": 1.1}, True, 0.1),
    (Fitted(1.0, 0.8, 1.3), {"above": 0.7, "below": 1.2, "by": "interval"}, False, -0.1),
    (np.float64(3), {"above": 2}, True, 1.0),
]


@pytest.mark.parametrize(("value", "options", "held", "distance"), CASES)
def test_a_number_is_judged_by_its_bounds(made, value, options, held, distance):
    pk.claim("a number", value, **options)
    (record,) = made
    assert record.held is held
    assert math.isclose(record.distance, distance, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("value", "held", "words"),
    [(True, True, "yes"), (np.bool_(False), False, "no"), ([True, False], False, "1 of 2")],
)
def test_truth_values_need_no_bound(made, value, held, words):
    pk.claim("an order", value)
    assert made[0].held is held
    assert made[0].number == words
    assert made[0].distance is None


@pytest.mark.parametrize("bad", [math.nan, [1.0, math.nan], Fitted(math.nan, 0, 1)])
@pytest.mark.parametrize("by", ["each", "mean"])
def test_a_nan_keeps_no_bound(made, bad, by):
    pk.claim("a number", bad, above=-math.inf, below=math.inf, by=by)
    assert not made[0].held
    assert None in made[0].to_json()["values"]
    assert as_text(made[0]).startswith("did not hold here: a number: nan")


@pytest.mark.parametrize(
    ("value", "options", "error", "words"),
    [
        ("many", {"above": 0}, TypeError, "expected a number"),
        ({}.values(), {"above": 0}, TypeError, "dict_values"),
        ([], {"above": 0}, ValueError, "at least one"),
        (1.0, {}, ValueError, "numbers without"),
        (True, {"above": 0}, ValueError, "truth values with"),
        (1.0, {"above": 0, "by": "interval"}, ValueError, "low and high"),
        (1.0, {"above": 0, "by": "median"}, ValueError, "by must be"),
    ],
)
def test_what_is_no_claim_is_refused(made, value, options, error, words):
    with pytest.raises(error, match=words):
        pk.claim("a number", value, **options)
    assert not made


def test_a_claim_without_words_is_refused():
    with pytest.raises(TypeError, match="says must be"):
        pk.claim(" ", 1.0, above=0)


def test_a_miss_is_shown_and_stops_nothing_unless_strict(made, monkeypatch):
    pk.claim("the error", 2.1, below=2)
    assert [record.held for record in made] == [False]
    monkeypatch.setenv(claims.VARIABLE, "strict")
    pk.claim("the error", 1.9, below=2)
    with pytest.raises(
        pk.ClaimNotHeld, match=r"did not hold here: the error: 2\.100, bound: below 2"
    ):
        pk.claim("the error", 2.1, below=2)
    monkeypatch.setenv(claims.VARIABLE, "strickt")
    with pytest.raises(ValueError, match="PKBOOK_CLAIMS must be"):
        pk.claim("the error", 1.9, below=2)


def test_a_miss_quotes_our_runs_and_escapes_its_words(monkeypatch):
    known = {"a < b": {"low": 1.6, "high": 1.9, "runs": 8}}
    monkeypatch.setattr(claims, "our_runs", lambda: known)
    record = Record("a < b", [2.1], 1, "each", False, -0.1, {"below": 2.0})
    assert as_text(record) == (
        "did not hold here: a < b: 2.100, bound: below 2; in our 8 runs 1.600 to 1.900"
    )
    assert "a &lt; b" in as_html(record)
    assert "This did not hold here." in as_html(record)


def test_a_record_survives_its_json(made):
    pk.claim("a number", [1.0, 2.0], above=0)
    record = made[0]
    assert from_json(record.to_json()) == record
    assert str(record) == "a number: 1.500 (1 to 2), bound: above 0"


def test_many_values_are_kept_as_extremes_and_mean(made):
    pk.claim("many", torch.linspace(0, 1, 1000), least=0, most=1)
    assert made[0].count == 1000
    assert made[0].values == pytest.approx([0, 0.5, 1])


def test_bounds_in_words():
    assert str(Bounds(above=0.5, most=2)) == "above 0.500 and at most 2"
