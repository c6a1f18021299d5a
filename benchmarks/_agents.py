"""Several whole clients in one process: ``python -m _agents CONFIG ...``.

Each is what ``kumiai client start`` runs, with its own connections and threads; only the process
is shared, because 32 of them would not fit a small machine.
"""

import asyncio
import sys
from pathlib import Path

from kumiai.node.assembly.client import serve_client
from kumiai.node.cli.serving import run_until_stopped
from kumiai.node.logs import configure_logs
from kumiai.node.settings_source import load_settings


async def main(configs: list[str]) -> None:
    settings = [load_settings(Path(config), environ={}).settings for config in configs]
    configure_logs(settings[0].log)
    await asyncio.gather(*(serve_client(each) for each in settings))


if __name__ == "__main__":
    run_until_stopped(main(sys.argv[1:]))
