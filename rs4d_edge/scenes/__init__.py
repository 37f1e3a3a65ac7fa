"""Overhead pictures drawn by rule, with every object's mask known: for the demo, for tests, for augmentation."""

from rs4d_edge.scenes.scene import Scene, generate_scene

__all__ = ["Scene", "generate_scene"]
