"""A benchmark's record as text for people."""

from typing import Any


def table(record: dict[str, Any]) -> str:
    """Parts with their times and, if counted, floors; then the whole and the machine."""
    rates = record["rates"]
    counted = ("MFLOP", "MB", "floor ms", "over floor") if "flops" in record["whole_step"] else ()
    header = ("part", "calls", "ms", "share of step", *counted)
    rows = [
        _row(name, part, record["whole_step_seconds"])
        for name, part in {**record["parts"], "whole step": record["whole_step"]}.items()
    ]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    device, compiled = record["device"], record["compile_seconds"]
    return "\n".join(
        [
            *lines,
            "",
            f"env steps per second  {record['env_steps_per_second']:,.0f}",
            f"whole over parts      {record['whole_over_parts']:.2f}",
            f"matrix products       {rates['matmul_network'] / 1e9:.1f} GFLOP/s at the network's "
            f"size, {rates['matmul_large'] / 1e9:.1f} at a large one",
            f"copies                {rates['copy_cached'] / 1e9:.1f} GB/s in cache, "
            f"{rates['copy_large'] / 1e9:.1f} beyond",
            f"memory                {record['peak_bytes'] / 2**20:,.0f} MiB of the step, "
            f"{record['process_peak_bytes'] / 2**20:,.0f} MiB of the process, compiling included",
            "compile seconds       " + ", ".join(f"{k} {v:.1f}" for k, v in compiled.items()),
            f"device                {device['kind']} ({device['backend']}), {device['cores']} "
            f"core(s), {device['machine']}, jax {device['jax']}; {record['clock']} clock, median "
            f"of {record['repetitions']}",
        ]
    )


def _row(name: str, part: dict[str, Any], whole: float) -> tuple[str, ...]:
    counts: tuple[str, ...] = ()
    if "flops" in part:
        counts = (
            f"{part['flops'] / 1e6:,.1f}",
            f"{part['bytes'] / 1e6:,.1f}",
            f"{1e3 * part['floor_seconds']:.3f}",
            f"{part['over_floor']:.1f}",
        )
    return (
        name,
        str(part["calls"]),
        f"{1e3 * part['seconds']:.3f}",
        f"{100 * part['calls'] * part['seconds'] / whole:.0f} %",
        *counts,
    )
