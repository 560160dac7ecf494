"""Why a model says what it says: heat maps, checked by asking the model, and the training images that are most alike."""

from headstart.explain.heat_maps import METHODS, HeatMaps
from headstart.explain.judging import Judgement, centre_map, judge, mean_interval, random_maps
from headstart.explain.pictures import Neighbour, explanation_picture, overlay
from headstart.explain.training_images import TrainingImages

__all__ = [
    "METHODS",
    "HeatMaps",
    "Judgement",
    "Neighbour",
    "TrainingImages",
    "centre_map",
    "explanation_picture",
    "judge",
    "mean_interval",
    "overlay",
    "random_maps",
]
