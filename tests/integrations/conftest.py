"""The trainings under workloads/ hold no doctests; not every environment has their libraries."""

import pytest

collect_ignore_glob = ["workloads/*"]

# What the libraries do to one another at these versions; every other warning stays an error.
FOREIGN = (
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",  # torch_geometric
    "ignore:.isinstance.treespec, LeafSpec.:FutureWarning",  # lightning
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft
)


def pytest_itemcollected(item: pytest.Item) -> None:
    for warning in FOREIGN:
        item.add_marker(pytest.mark.filterwarnings(warning))
