"""The entry point: the command ``etl``, and ``python -m etl``, which is the same.

Nothing is imported before it is called, because each worker that is spawned imports the script that has started it.
"""


def main() -> None:
    """Run the command line."""
    from etl.cli import main as run

    run()


if __name__ == "__main__":
    main()
