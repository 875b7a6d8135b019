"""The page of `humanpref serve`, which shows how both orders of two answers to a prompt are judged.

The page is a form and a script that calls `POST /judge`. All its files come from this package, and
its Content-Security-Policy forbids loading anything else.
"""

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response
from starlette.routing import Route

from humanpref.version import __version__

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page may load only its own script and style, and may contact only its own server."""


def page_routes(model: str, about: str, headers: dict[str, str]) -> list[Route]:
    """Return the routes of the page, its style and its script.

    Parameters
    ----------
    model : str
        The name of the model.
    about : str
        What a reader should know about the model, in a sentence or two; may be empty.
    headers : dict of str to str
        The headers of every answer, in addition to `Content-Security-Policy`.

    Examples
    --------
    >>> [route.path for route in page_routes("packaged", "", {})]
    ['/', '/page.css', '/page.js']
    """
    environment = Environment(
        loader=PackageLoader("humanpref.interfaces"), autoescape=True, undefined=StrictUndefined
    )
    values = {"model": model, "about": about, "version": __version__}
    headers = headers | {"Content-Security-Policy": POLICY}
    routes = []
    for path, template, kind in (
        ("/", "serve.html.j2", "text/html"),
        ("/page.css", "serve.css", "text/css"),
        ("/page.js", "serve.js", "text/javascript"),
    ):
        content = environment.get_template(template).render(values)
        routes.append(Route(path, Response(content, 200, headers, kind), methods=["GET"]))
    return routes
