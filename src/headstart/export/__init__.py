"""Exporting a run: one file that takes raw pixels, compared with the run on real images before it is written."""

from headstart.export.formats import ConverterError
from headstart.export.gate import Gate, read_drop
from headstart.export.job import SUFFIXES, ExportError, check_format, export
from headstart.export.onnx_file import onnx_model
from headstart.export.parity import Parity
from headstart.export.snippets import snippet

__all__ = [
    "SUFFIXES", "ConverterError", "ExportError", "Gate", "Parity", "check_format", "export", "onnx_model", "read_drop", "snippet",
]  # fmt: skip
