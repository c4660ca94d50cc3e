"""`normres` as a process of its own: signals wait, and the process is started anew, before imports that take time."""

import sys

from normres import signals


def main() -> int:
    """Runs the command line, with the settings that only a new process takes, and returns the exit status."""
    signals.block()
    from normres.runs import machine

    machine.restart_with_huge_pages()
    signals.catch()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it may be closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal may lack a letter
    from normres import cli
    from normres.runs import hosts

    return hosts.leave(cli.main())


if __name__ == "__main__":
    sys.exit(main())
