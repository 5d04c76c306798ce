"""Ask a version on storage, without a server."""

from __future__ import annotations

import sys

from streamrec.cli.answers import items_of, print_answer
from streamrec.cli.options import Ask
from streamrec.cli.show_config import resolve
from streamrec.pipeline.answering import StorageAnswerer


def run(options: Ask) -> int:
    """Print what the version answers."""
    config = resolve(options.settings)
    answerer = StorageAnswerer(config, options.student, options.version, options.user, options.namespace)
    answer = answerer.rank(options.body()) if options.candidates else answerer.recommend(options.body())
    print_answer(options, answer, answerer.titles(items_of(answer)))
    if options.user is not None and not options.history and not options.json:
        said = "what is known of the user is as of the newest commit (streamrec status says how old that is); a server (--url) knows more"
        sys.stderr.write(f"{said}\n")
    return 0
