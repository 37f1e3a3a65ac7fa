"""Weights that come with the package: `<name>.safetensors`, each with its model card `<name>.md` beside it."""
