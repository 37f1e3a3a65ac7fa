"""From the reference model to a bundle that is proven to give what the model gives."""
