"""Front-door checks shared by the data functions: what was expected, what came, what to write."""

import math

import torch


def check_count(name: str, value: object) -> int:
    """``value`` as a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name}: expected a whole number, came {value!r}; write for example {name}=100"
        )
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, came {value}; write for example {name}=100")
    return value


def check_number(name: str, value: object) -> float:
    """``value`` as a finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, came {value!r}; write for example {name}=1.0")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, came {value}; write {name}=1.0")
    return float(value)


def check_positive(name: str, value: object) -> float:
    """``value`` as a finite float above zero."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number above 0, came {value}; write {name}=1.0")
    return number


def check_pair(name: str, value: object) -> tuple[object, object]:
    """``value`` as a pair; its two entries are checked by the caller."""
    if not isinstance(value, tuple | list):
        raise TypeError(
            f"{name}: expected a pair of numbers, came {value!r}; write for example {name}=(1, 2)"
        )
    if len(value) != 2:
        raise ValueError(
            f"{name}: expected two numbers, came {len(value)}; write for example {name}=(1, 2)"
        )
    return value[0], value[1]


def check_increasing(name: str, value: object) -> tuple[float, float]:
    """``value`` as two finite numbers, the first below the second."""
    low, high = (check_number(name, end) for end in check_pair(name, value))
    if low >= high:
        raise ValueError(
            f"{name}: expected (low, high) with low < high, came ({low}, {high}); "
            f"swap or change the two"
        )
    return low, high


def check_generator(generator: object) -> None:
    """None, or a generator that draws on the CPU."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator or None, came {generator!r}; "
            "write generator=torch.Generator().manual_seed(0)"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator: expected one on the CPU, came one on {generator.device}; "
            "write torch.Generator().manual_seed(0) and move the samples with .to(device)"
        )


def check_dtype(dtype: object) -> None:
    """A floating torch dtype."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch dtype, came {dtype!r}; write dtype=torch.float32")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating dtype, came {dtype}; write torch.float32")


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """The caller's generator, or a fresh one with seed 0: the global state stays as it is."""
    return torch.Generator().manual_seed(0) if generator is None else generator
