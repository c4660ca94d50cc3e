"""`normres` as a process of its own: signals are caught before anything is imported that takes time."""

import sys

from normres import signals


def main() -> int:
    """Runs the command line and returns the exit status."""
    signals.catch()
    from normres import cli

    return cli.run_command()


if __name__ == "__main__":
    sys.exit(main())
