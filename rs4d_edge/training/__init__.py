"""Training on instance masks: data sets, augmentation, the loop, the model card. For workstations."""
