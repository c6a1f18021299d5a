"""The API as one ASGI application."""

import asyncio

from fastapi import FastAPI

from kumiai import __version__
from kumiai.node.http.dependencies import ApiDependencies

__all__ = ["create_app"]


def create_app(parts: ApiDependencies) -> FastAPI:
    """Return the API over a coordinator's parts; nothing is opened or read yet."""
    app = FastAPI(
        title="Kumiai coordinator",
        version=__version__,
        # Swagger's and Redoc's pages load scripts from elsewhere; the document alone does not.
        docs_url=None,
        redoc_url=None,
    )
    app.state.parts = parts
    app.state.closing = asyncio.Event()
    return app
