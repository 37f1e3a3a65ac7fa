"""Training recipes as YAML, one for each data set, head and encoder; `rs4d_edge.training.recipe` merges them."""
