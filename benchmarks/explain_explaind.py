"""The peer explaind: it records a training loop of its own, on the same batches."""

import contextlib
import copy
import io
from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.explain_case import Case, Unsuitable


class _Numbered(Dataset):
    """Samples with their targets in a list, where explaind writes their numbers."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, list(y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i], self.targets[i]


def _optimizer(case: Case, model: nn.Module):
    from explaind import optimizer_paths

    kinds = {"SGD": optimizer_paths.SGDOptimizerPath, "AdamW": optimizer_paths.AdamWOptimizerPath}
    if case.kind not in kinds:
        raise Unsuitable(f"has no {case.kind}")
    options = {"weight_decay": 0.0} | case.options
    if case.kind == "SGD":  # its momentum is 0.9 unless told; half precision is slow on a CPU
        options = {"momentum": 0.0, "buffer_float16": False} | options
    return kinds[case.kind](model, checkpoints=[], device="cpu", **options)


def record(case: Case, nodes: int) -> Callable[[], dict]:
    """Train as its README shows; the function explains with that many nodes per step."""
    from explaind.data_paths import DataPath
    from explaind.epk_model import ExactPathKernelModel
    from explaind.model_paths import ModelPath

    classes = case.model(case.x[:1]).shape[1]
    model = ModelPath(copy.deepcopy(case.model), device="cpu", output_dim=classes)
    optimizer = _optimizer(case, model)
    loader = DataLoader(_Numbered(case.x, case.y), batch_sampler=[b.tolist() for b in case.batches])
    data, loss = DataPath(loader, full_batch=False), nn.CrossEntropyLoss()
    for batch in data.dataloader:
        x, y = data.get_batch(batch)
        optimizer.zero_grad()
        loss(model.forward(x), y).backward()
        optimizer.step()
        model.log_checkpoint()
        optimizer.log_checkpoint()
    final = copy.deepcopy(model.model.state_dict())
    width = 1 / nodes if nodes > 1 else 1  # it takes a range of this: not 1.0
    # Of its defaults two are changed: the first steps get no more nodes than the others, and no
    # kernels of single steps are kept (without the kernel by parameter that fails at step 0).
    explainer = ExactPathKernelModel(
        model=model, optimizer=optimizer, loss_fn=loss, data_path=data, integral_eps=width,
        early_integral_eps=None, early_steps=0, evaluate_predictions=False, device="cpu",
        kernel_store_interval=float("nan"),
    )  # fmt: skip

    def explain() -> dict:
        with contextlib.redirect_stdout(io.StringIO()):
            end, start, kernels, _, _ = explainer.predict(case.queries, keep_kernel_matrices=True)
        whole = sum(kernel[:, 0] for kernel in kernels.values()).detach().double()  # [m, C, N]
        contributions = case.picked(whole.permute(2, 0, 1)) / len(case.batches[0])
        told = case.picked((end - start).detach().double())
        return {"contributions": contributions, "other": told - contributions.sum(0),
                "final": final}  # fmt: skip

    return explain
