"""Frames to compare and calibrate with, what they show of a model, and what is rounded by it."""
