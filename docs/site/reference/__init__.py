"""Make the reference pages of the documentation from the code that they describe.

Takes the configuration's models, the command line's parser, the routes' OpenAPI document and the docstrings of public names. Gives Markdown by page.
"""

from collections.abc import Callable, Mapping

from reference.configuration import configuration_page
from reference.names import names_page
from reference.routes import routes_page
from reference.verbs import verbs_page

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/configuration.md": configuration_page,
    "reference/command-line.md": verbs_page,
    "reference/http.md": routes_page,
    "reference/python.md": names_page,
}
"""What writes each page, by its place on the site."""

__all__ = ["PAGES"]
