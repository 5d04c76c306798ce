"""Talk to a person at a terminal: the command ``streamrec`` and its verbs.

Takes arguments, files and the configuration. Gives tables and progress bars, or JSON for programs, and one paragraph per error.
"""

from streamrec.cli.commands import app

__all__ = ["app"]
