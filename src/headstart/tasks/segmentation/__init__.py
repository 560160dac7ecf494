"""Segmentation: which class each pixel has."""
