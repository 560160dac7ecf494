"""Maps: scikit-learn transformers from features to features, each with its own way into ONNX."""

from headstart.maps.alignment import ALIGNMENTS, Alignment, Coral, LinearTransport, Standardised, SubspaceAlignment, TransferComponents
from headstart.maps.layers import CLIP, FLOOR, Features, LayerMap, Slices

__all__ = [
    "ALIGNMENTS", "CLIP", "FLOOR", "Alignment", "Coral", "Features", "LayerMap", "LinearTransport", "Slices", "Standardised",
    "SubspaceAlignment", "TransferComponents",
]  # fmt: skip
