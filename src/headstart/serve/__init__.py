"""A saved run as a service: HTTP routes, the Open Inference Protocol, and a web page. Needs ``headstart[serve]``.

The names are imported on first use, so that reading the limits does not import FastAPI.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.serve.app import create_app
    from headstart.serve.limits import Limits
    from headstart.serve.server import ServerSettings, serve

__all__ = ["Limits", "ServerSettings", "create_app", "serve"]

_PLACES = {"Limits": "limits", "ServerSettings": "server", "create_app": "app", "serve": "server"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
