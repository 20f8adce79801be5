"""An environment in which nothing of the person's own is read: no settings, keyring, kernels or state."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = {
    "HOME": "home",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_RUNTIME_DIR": "run",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/run",
    "JUPYTERLAB_WORKSPACES_DIR": "jupyter/workspaces",
    "JUPYTERLAB_SETTINGS_DIR": "jupyter/settings",
    "MPLCONFIGDIR": "matplotlib",
}


def environment(root: Path) -> dict[str, str]:
    """Return the process's environment with every personal folder below *root*, which is made."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SMTP_NOTEBOOK_")}
    moved = {name: root / place for name, place in FOLDERS.items()}
    for folder in moved.values():
        folder.mkdir(parents=True, exist_ok=True)
    (root / "run").chmod(0o700)
    return (
        kept
        | {name: str(folder) for name, folder in moved.items()}
        | {
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "JUPYTER_PREFER_ENV_PATH": "1",
            "MPLBACKEND": "Agg",
            # Chromium's own sandbox does not work for root, as whom containers run.
            **({"BOKEH_IN_DOCKER": "1"} if os.geteuid() == 0 else {}),
        }
    )
