"""Run the command line as `python -m streamrec`."""

from streamrec.cli import app

app()
