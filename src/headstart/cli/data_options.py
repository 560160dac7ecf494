"""The options that say which images are learned from, and with which backbone, for every command that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Argument(metavar="DATA", help="Folder, list file or named set of labelled images.")]
Backbone = Annotated[str, typer.Option(metavar="NAME", help="See `headstart backbones`.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Backbone weights: .safetensors, or .pth (read safely).")]
ClassWeight = Annotated[str | None, typer.Option(metavar="balanced", help="Let every class count the same.")]
FitImage = Annotated[str | None, typer.Option(metavar="crop|squash", help="Cut the centre, or keep the whole image.")]
TestShare = Annotated[float, typer.Option(help="Share held out where there is no test part.")]
GroupFrom = Annotated[str | None, typer.Option(metavar="REGEX", help="Group of an image, from its file name.")]
Column = Annotated[list[str] | None, typer.Option(metavar="KIND=NAME", help="Column of a list: path=, label=, split= or group=.")]
Engine = Annotated[str, typer.Option(metavar="NAME", help="auto, openvino, onnxruntime or torch.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features and no converted network.")]
