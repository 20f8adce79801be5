"""``python -m smtp_notebook``: the command line where its script is not on the path."""

from __future__ import annotations

from smtp_notebook.cli import main

if __name__ == "__main__":
    main(prog_name="smtp-notebook")
