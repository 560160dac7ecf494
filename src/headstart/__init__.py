"""Headstart: from a folder of labelled images to a tested classifier, in seconds."""

__version__ = "0.1.0"
