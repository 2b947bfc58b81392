"""`fcr app`: serve the pages of `app_page.py` to this machine, and to nobody else."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

from pipelines import InputError

ADDRESS = "127.0.0.1"
UPLOAD_MB = 20


def app(*, run: str, runs: Path, port: int = 8501, headless: bool = False) -> None:
    """Become the app's server: this process is replaced, so that Ctrl-C and signals reach it.

    Args:
        run: name of the run.
        runs: folder that holds all runs.
        port: to listen on, of the loopback address.
        headless: open no browser.

    Raises:
        InputError: no such run, no Streamlit, or a port that is taken.
    """
    from pipelines.explore import open_to_read

    if importlib.util.find_spec("streamlit") is None:
        raise InputError("the app needs Streamlit: install it with `pip install 'fcr[app]'`")
    open_to_read(run, runs)
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((ADDRESS, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {ADDRESS} can't be used ({error.strerror}): choose another with "
                "--port"
            ) from error
    command = server_command(run=run, runs=runs, port=port, headless=headless)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - a literal list of arguments, no shell


def server_command(*, run: str, runs: Path, port: int, headless: bool) -> list[str]:
    """The command line of the server; options given here win over the user's Streamlit settings."""
    options = {
        "server.address": ADDRESS,
        "server.port": port,
        "server.headless": str(headless).lower(),
        "server.showEmailPrompt": "false",
        "server.maxUploadSize": UPLOAD_MB,
        "server.fileWatcherType": "none",
        "server.enableStaticServing": "false",
        "browser.serverAddress": ADDRESS,
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "runner.magicEnabled": "false",
        "theme.light.primaryColor": "#00558a",
        "theme.dark.primaryColor": "#7cc4f0",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    # Another site's page in the same browser can point its own name at 127.0.0.1.
    flags += [f"--server.allowedHosts={host}" for host in (ADDRESS, "localhost")]
    script = str(Path(__file__).with_name("app_page.py"))
    return [
        *(sys.executable, "-m", "streamlit", "run", script, *flags),
        *("--", str(runs.resolve()), run),
    ]
