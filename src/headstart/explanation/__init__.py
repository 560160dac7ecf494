"""Why a model predicts what it does: heat maps of the evidence, checked against the model, and the nearest training images."""

from headstart.explanation.explanations import Explanation, Neighbour, explain, explanation_picture, nearest_training_images, overlay
from headstart.explanation.heat_maps import HeatMaps

__all__ = ["Explanation", "HeatMaps", "Neighbour", "explain", "explanation_picture", "nearest_training_images", "overlay"]
