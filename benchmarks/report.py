"""The machine's facts and the text of the tables."""

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

WRONG = 1e-3  # float32 rounding, even where it flips a pooling window, stays far below


def processor() -> str:
    """The model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def facts(threads: int, packages: dict[str, str]) -> dict:
    """What the numbers depend on; nothing that names this machine."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in packages.values():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "dtype": "float32",
        "system": platform.system(),
        "versions": versions,
    }


def opening(machine: dict) -> str:
    """The first line of a benchmark."""
    return (
        f"{machine['processor']}, {machine['instructions']}, {machine['threads']} threads, "
        f"{machine['dtype']}, {machine['date']}"
    )


def versions_text(machine: dict) -> str:
    return "versions: " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items())


def show(text: str, found: dict, path: Path | None) -> None:
    """Print a part; write all that was found so far, so that an interrupted run keeps it."""
    print(f"\n{text}", flush=True)
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n")


def case_text(name: str, row: dict) -> str:
    """The table of one case."""
    limit = row["limit"]
    m, k, n = limit["gemm_shape"]
    lines = [
        f"{name}: {row['title']}",
        f"  limit {1e3 * limit['seconds']:.1f} ms = passes {1e3 * limit['passes']['median']:.1f} ms"
        f" + contraction {1e3 * limit['contraction_seconds']:.1f} ms"
        f" ({limit['contraction_flops'] / 1e9:.3g} GFLOP at"
        f" {limit['gemm_flops_per_second'] / 1e9:.0f} GFLOP/s, torch.mm {m} x {k} x {n})",
        f"  with the better of that rate and the 1024-cube's"
        f" ({limit['square_gemm_flops_per_second'] / 1e9:.0f} GFLOP/s): strict limit"
        f" {1e3 * limit['strict_seconds']:.1f} ms, all operations"
        f" ({(limit['pass_flops'] + limit['contraction_flops']) / 1e9:.3g} GFLOP) at it:"
        f" roofline {1e3 * limit['roofline_seconds']:.1f} ms",
        "  ways: " + ", ".join(f"{r['layer']} {r['way']}" for r in limit["layers"]),
        f"  {'method':<21}{'median ms':>10}{'min':>9}{'runs':>5}{'/limit':>8}{'/strict':>8}"
        f"{'/roof':>7}{'error':>9}{'peak MB':>9}",
    ]
    for method, got in row["methods"].items():
        if "median" not in got:
            lines.append(f"  {method:<21}  {got['reason']}")
            continue
        memory = f"{got['megabytes']:9.0f}" if "megabytes" in got else f"{'-':>9}"
        mark = "  WRONG" if not got["error"] < WRONG else ""
        lines.append(
            f"  {method:<21}{1e3 * got['median']:10.1f}{1e3 * got['min']:9.1f}{got['runs']:5d}"
            f"{got['ratio']:8.2f}{got['ratio_strict']:8.2f}{got['ratio_roofline']:7.1f}"
            f"{got['error']:9.1e}{memory}{mark}"
        )
    return "\n".join(lines)


def weighted_text(rows: dict) -> str:
    lines = ["Random diagonal weight against none (error: first 8 samples, float64 autograd)"]
    for name, row in rows.items():
        lines.append(
            f"  {name}: {1e3 * row['weighted']['median']:.1f} ms /"
            f" {1e3 * row['plain']['median']:.1f} ms = {row['ratio']:.2f},"
            f" error {row['error']:.1e}"
        )
    return "\n".join(lines)


def growth_text(rows: dict) -> str:
    lines = ["Growth (time and memory as powers of the size)"]
    for name, row in rows.items():
        times = ", ".join(f"{1e3 * t:.0f}" for t in row["seconds"])
        sizes = ", ".join(map(str, row["sizes"]))
        line = f"  {name} {sizes}: {times} ms, slope {row['time_slope']:.2f}"
        if "megabytes" in row:
            peaks = ", ".join(f"{m:.0f}" for m in row["megabytes"])
            line += f"; {peaks} MB, slope {row['memory_slope']:.2f}"
        lines.append(line)
    return "\n".join(lines)


def large_text(row: dict) -> str:
    if "reason" in row:
        return f"{row['title']}: {row['reason']}"
    return (
        f"{row['title']}: {row['seconds']:.1f} s, peak {row['megabytes']:.0f} MB above the start,"
        f" {row['process_megabytes']:.0f} MB of the whole process"
    )
