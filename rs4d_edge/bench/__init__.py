"""Measurements on a device: latency, streams, soaks, sensors, their report and their comparison. Needs no torch."""
