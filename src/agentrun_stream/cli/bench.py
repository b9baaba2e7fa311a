"""`agentrun bench`: figures that anyone can run again, with a verdict on correctness beside them.

Must not live here: the benchmarks themselves.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import EXIT_NO, DataOption, require_embedded, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, table, write
from agentrun_stream.errors import UsageError

app = typer.Typer()
bench = typer.Typer(
    name="bench", help="Measure drain rate, freshness, verification and dashboards.", no_args_is_help=True
)
app.add_typer(bench)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="Where the benchmark's stack lives; default: a temporary folder, removed after."),
]
_UNITS: Final = {
    "steps_per_second": "steps/s",
    "worker_cpu_us_per_step": "us",
    "worker_rss_mb": "MB",
    "raw_consume_per_second": "records/s",
    "raw_insert_per_second": "rows/s",
    "raw_verify_per_second": "verifications/s",
    "terminal_per_second": "runs/s",
    "terminal_bytes": "bytes",
    "embedded_per_second": "runs/s",
    "embedded_bytes": "bytes",
    "chained_steps_per_second": "steps/s",
    "seconds": "s",
    "refresh_seconds": "s",
    "p50_seconds": "s",
    "p99_seconds": "s",
    "max_seconds": "s",
}

_WRONG: Final = {
    "audit_residual": "the audit found differences",
    "verdicts_differ": "runs have other verdicts than they were made for",
    "windows_differ": "windows do not hold what was settled",
}


@bench.command(epilog="Example: agentrun bench drain --steps 1000000 -o json")
def drain(
    steps: Annotated[int, typer.Option(min=1_000, help="Step events to drain.")] = 1_000_000,
    open_runs: Annotated[int, typer.Option(min=1, help="Runs open at once.")] = 500,
    bad: Annotated[float, typer.Option(min=0, max=0.5, help="Share of bad records.")] = 0.0,
    repeated: Annotated[float, typer.Option(min=0, max=0.5, help="Share of repeated records.")] = 0.0,
    late: Annotated[float, typer.Option(min=0, max=0.5, help="Share of steps after the end of their run.")] = 0.0,
    signed: Annotated[
        bool, typer.Option("--signed", help="Drain the load unsigned, then signed, and compare the two.")
    ] = False,
    tampered: Annotated[
        float, typer.Option(min=0, max=1, help="With --signed: share of runs that are tampered with.")
    ] = 0.01,
    costs: Annotated[
        bool, typer.Option("--costs", help="Drain the load without prices and windows, then with them, and compare.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the load.")] = 1,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fill the topic, drain it by one worker, audit the result.

    Exit code 1 unless the residual is 0 and every run has the verdict that it was made for.
    """
    from agentrun_stream.cli import bench_drain  # noqa: PLC0415 - heavy

    if signed and costs:
        raise UsageError("--signed and --costs are two comparisons.", "Give one of them.")
    options = bench_drain.Drain(steps, open_runs, bad, repeated, late, seed, tampered=tampered)
    pair = "signed" if signed else "costs" if costs else None
    measure = bench_drain.drain if pair is None else partial(bench_drain.drain_both, pair)
    _show(lambda where: measure(options, where, settings_for(None), say), folder, output)


@bench.command(epilog="Example: agentrun bench freshness --rate 5000")
def freshness(
    rate: Annotated[int, typer.Option(min=20, help="Steps published a second.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of the load.")] = 1,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish at a steady rate and measure from acknowledged to visible by SQL. Exit code 1 unless the residual is 0."""
    from agentrun_stream.cli import bench_freshness  # noqa: PLC0415 - heavy

    options = bench_freshness.Freshness(rate, seconds, seed)
    _show(lambda where: bench_freshness.freshness(options, where, settings_for(None), say), folder, output)


@bench.command(epilog="Example: agentrun bench verify -o json")
def verify(
    seconds: Annotated[float, typer.Option(min=0.1, help="CPU time spent on each figure.")] = 3.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify signed runs on one core, beside libsodium alone on the same signatures. Needs no stack."""
    from agentrun_stream.cli import bench_verify  # noqa: PLC0415 - heavy

    _figures(bench_verify.measure(seconds), output)


@bench.command(epilog="Example: agentrun bench dashboard --runs 1000000")
def dashboard(
    runs: Annotated[int, typer.Option(min=1_000, help="Settled runs, over thirty days.")] = 10_000_000,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Settle many runs, bring the windows up to date, and time a dashboard's questions.

    Exit code 1 unless the windows hold exactly what was settled.
    """
    from agentrun_stream.cli import bench_dashboard  # noqa: PLC0415 - heavy

    options = bench_dashboard.Dashboard(runs)
    _show(lambda where: bench_dashboard.dashboard(options, where, say), folder, output)


@bench.command(hidden=True)
def worker(
    records: Annotated[int, typer.Option(min=1)],
    data: DataOption = None,
    without_costs: Annotated[bool, typer.Option()] = False,
) -> None:
    """Drain this many records and print what it took: the worker's side of `bench drain`."""
    from agentrun_stream.cli.bench_drain import measure_worker  # noqa: PLC0415 - heavy

    as_json(measure_worker(settings_for(data), records, costs=not without_costs))


def _show(work: Callable[[Path], dict[str, Any]], folder: Path | None, output: Output) -> None:
    require_embedded()
    if folder is not None:
        figures = work(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="agentrun-bench-") as temporary:
            figures = work(Path(temporary))
    _figures(figures, output)
    wrong = [text for name, text in _WRONG.items() if figures.get(name)]
    if output is not Output.JSON:
        write(f"WRONG: {' and '.join(wrong)}." if wrong else "Correct: nothing differs.")
    if wrong:
        raise typer.Exit(EXIT_NO)


def _figures(figures: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        as_json(figures)
    else:
        rows = [{"figure": k, "value": f"{v:,}", "unit": _unit(k)} for k, v in figures.items()]
        table("", {"figure": "figure", "value": "value", "unit": "unit"}, rows)


def _unit(figure: str) -> str:
    """The unit of a figure, also where it is told of both loads that are compared."""
    if figure.endswith("_ms"):
        return "ms"
    return _UNITS.get(figure, _UNITS.get(figure.partition("_")[2], ""))
