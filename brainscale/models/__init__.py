"""Networks, the model folder, and the engines that run a model."""
