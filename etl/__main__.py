"""The entry point: the command ``etl``, and ``python -m etl``, which is the same.

Nothing is imported before it is called, because each worker that is spawned imports the script that has started it.
"""


def main() -> None:
    """Run the command line, and end the process without taking down piece by piece what was imported."""
    import atexit

    ending: list[int] = []
    atexit.register(_leave, ending)  # the first one is the last to be called

    from etl.cli import main as run

    try:
        run()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            ending.append(ended.code or 0)
        raise


def _leave(ending: list[int]) -> None:
    """End at once with the exit code, if there is one by now and what was printed has left; else Python does it."""
    import contextlib
    import os
    import sys

    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if ending:
            os._exit(ending[0])


if __name__ == "__main__":
    main()
