"""The commands that a user types, one module each, and what they share."""
