"""The command line: ``kumiai <noun> <verb>``.

Each command imports what it needs when it runs, so that ``kumiai --help`` and completion are
instant. What a command is told becomes settings or an object of another room; nothing is decided
here but words, tables and exit codes.
"""

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name, and exit with its code."""
    from kumiai.node.cli.app import app

    app(prog_name="kumiai")
