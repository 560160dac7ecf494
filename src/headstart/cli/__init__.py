"""The command line: each command parses, calls one public function, and prints."""

from headstart.cli.application import application, main

__all__ = ["application", "main"]
