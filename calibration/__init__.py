"""Frames to compare and to calibrate with."""
