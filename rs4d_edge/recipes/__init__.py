"""Training recipes as YAML: one file a data set, one a head, one an encoder; `rs4d_edge.training.recipe` merges them."""
