"""Reading ahead: powers, powersets and their summaries into Redis, powerset by powerset, on several threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from etl.errors import UsageError
from etl.read import questions
from etl.read.engine import Engine

Line = tuple[int, Sequence[int], Sequence[str]]

# Powers that are asked for in one statement.
_MOST_POWERS = 200


def warm(
    engine: Engine, archetype: str | None, jobs: int, progress: Callable[[int, int], None] | None
) -> dict[str, int]:
    """Read everything of an archetype, or of all; return how many powersets and powers that was.

    Raises:
        UsageError: there is no such archetype, or it has no powers.
        DatabaseError: the database cannot be asked.
    """
    lines: list[Line] = [*engine.queries.powersets_to_warm(archetype)]
    if archetype is not None and not lines:
        raise UsageError(f"there are no powers of an archetype {archetype}", "write the key of one, like blaster")
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="etl.read warm") as pool:
        waiting = [pool.submit(_powerset, engine, line) for line in lines]
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                future.result()
                if progress is not None:
                    progress(done, len(waiting))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {"powersets": len(lines), "powers": sum(len(ids) for _, ids, _ in lines)}


def _powerset(engine: Engine, line: Line) -> None:
    number, ids, names = line
    engine.ask(questions.powerset(number))
    engine.ask(questions.summary(number))
    for start in range(0, len(ids), _MOST_POWERS):
        engine.powers(ids[start : start + _MOST_POWERS], engine.generations.current())
    engine.file_names(dict(zip(names, ids, strict=True)))
