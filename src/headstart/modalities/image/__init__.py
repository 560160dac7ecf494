"""Images: a file, bytes or an array in; uint8 RGB out, or a refusal with its reason.

This is the only code path from an image to a network: fitting, predicting, evaluating and serving all go through it, so that
they all see the same pixels.
"""

from headstart.modalities.image.decode import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageSource,
    Levels,
    begins_as_image,
    image_digest,
    image_name,
    is_image_name,
    is_pillow,
    quiet_decoding,
    read_image,
    rgb_of_array,
    source_bytes,
    typical_side,
    upright_size,
)
from headstart.modalities.image.preprocessing import Preprocessing

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PIXELS", "ImageSource", "Levels", "Preprocessing", "begins_as_image", "image_digest", "image_name",
    "is_image_name", "is_pillow", "quiet_decoding", "read_image", "rgb_of_array", "source_bytes", "typical_side", "upright_size",
]  # fmt: skip
