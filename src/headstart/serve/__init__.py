"""A saved run as a service: HTTP routes, the Open Inference Protocol, and a web page. Needs ``headstart[serve]``."""

from headstart.serve.app import create_app
from headstart.serve.server import serve
from headstart.settings.serving import Limits, ServerSettings

__all__ = ["Limits", "ServerSettings", "create_app", "serve"]
