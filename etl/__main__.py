"""``python -m etl``: the same as the command ``etl``, whose entry point this is.

Worker processes import this module as well, and do without the command line.
"""


def main() -> None:
    """Run the command line; see ``etl.cli``."""
    from etl.cli import main as run

    run()


if __name__ == "__main__":
    main()
