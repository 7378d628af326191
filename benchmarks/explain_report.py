"""The text of the tables of explain.py."""


def recording_text(rows: dict) -> str:
    lines = [
        "Recording: milliseconds per step, and what recording adds",
        f"  {'network, optimizer':<20}{'plain':>8}{'memory':>9}{'folder':>9}"
        f"{'memory':>10}{'folder':>9}",
    ]
    for name, row in rows.items():
        times = [
            row["milliseconds_per_step"][way]["median"] for way in ("plain", "memory", "folder")
        ]
        more = [row["overhead_percent"][way] for way in ("memory", "folder")]
        lines.append(
            f"  {name:<20}{times[0]:8.2f}{times[1]:9.2f}{times[2]:9.2f}"
            f"{more[0]:+9.1f}%{more[1]:+8.1f}%"
        )
    return "\n".join(lines)


def explain_text(name: str, rows: dict) -> str:
    lines = [
        f"Explaining a whole run, {name}",
        f"  {'rule':<11}{'steps':>6}{'train s':>9}{'explain s':>10}{'x train':>8}{'gap median':>11}"
        f"{'max':>9}{'reached':>8}{'pieces':>7}{'peak MB':>8}{'run MB':>7}",
    ]
    for rule, got in rows.items():
        if "reason" in got:
            lines.append(f"  {rule:<11}{got['steps']:6d}  {got['reason']}")
            continue
        reached = "-" if got["reached"] is None else f"{100 * got['reached']:.0f}%"
        lines.append(
            f"  {rule:<11}{got['steps']:6d}{got['plain_seconds']:9.2f}{got['seconds']:10.1f}"
            f"{got['ratio']:8.1f}{got['completeness_median']:11.1e}{got['completeness_max']:9.1e}"
            f"{reached:>8}{got['pieces_mean']:7.1f}{got['megabytes']:8.0f}"
            f"{got['trajectory_megabytes']:7.0f}"
        )
    return "\n".join(lines)


def growth_text(rows: dict) -> str:
    lines = ["Growth of the time to explain (exponent of a power law; width: of the parameters)"]
    for name, row in rows.items():
        sizes = ", ".join(map(str, row["sizes"]))
        times = ", ".join(f"{t:.2f}" for t in row["seconds"])
        lines.append(f"  {name} {sizes}: {times} s, slope {row['slope']:.2f}")
    return "\n".join(lines)


def peers_text(name: str, row: dict) -> str:
    lines = [
        f"Side by side on the same run, {name}: {row['title']}",
        f"  {'method':<19}{'s':>8}{'ms/step':>9}{'x train':>8}{'peak MB':>9}"
        f"{'gap median':>11}{'max':>9}{'explained':>10}{'correl.':>8}",
    ]
    for method, got in row["methods"].items():
        if "reason" in got:
            lines.append(f"  {method:<19}  {got['reason']}")
            continue
        correlation = got.get("correlation_median")
        lines.append(
            f"  {method:<19}{got['seconds']:8.1f}{got['milliseconds_per_step']:9.1f}"
            f"{got['ratio']:8.1f}{got['megabytes']:9.0f}{got['completeness_median']:11.1e}"
            f"{got['completeness_max']:9.1e}{got['explained_median']:10.3f}"
            + (f"{correlation:8.3f}" if correlation is not None else f"{'-':>8}")
        )
    return "\n".join(lines)
