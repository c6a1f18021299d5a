"""The coordinator's HTTP side: runs, models, clients, metrics, for operators and Prometheus.

Importing this room costs a third of a second (FastAPI); only a program that serves it does so.
"""

from kumiai.node.http.app import create_app
from kumiai.node.http.dependencies import ApiDependencies
from kumiai.node.http.server import new_http_server

__all__ = ["ApiDependencies", "create_app", "new_http_server"]
