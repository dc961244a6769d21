"""What a run's time went to, as a table."""

from collections.abc import Iterator, Mapping

import click

from etl import timings


def show(seconds: Mapping[str, float]) -> None:
    """Print the table."""
    click.echo("\n".join(lines(seconds)))


def lines(seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield the phases with their share of the wall time; below "load" the workers' parts with theirs of all workers'."""
    phases, workers = timings.phases(seconds), timings.workers(seconds)
    wall, worked = sum(phases.values()), sum(workers.values())
    yield f"{'seconds':>10}  {'share':>7}  phase"
    for name, own in phases.items():
        yield _line(own, wall, name)
        if name == timings.LOAD:
            yield from (_line(own, worked, f"  workers: {part.replace('_', ' ')}") for part, own in workers.items())
    yield _line(wall, wall, "in all")


def _line(seconds: float, whole: float, name: str) -> str:
    return f"{seconds:10.3f}  {seconds / whole if whole else 0:7.1%}  {name}"
