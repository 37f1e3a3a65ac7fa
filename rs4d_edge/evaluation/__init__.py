"""Accuracy on annotated data. For workstations."""
