"""The networks, and the registry that names them."""

NAMES = ("brainmrnet", "brainmrnet_paper", "vgg16", "resnet50", "densenet121")
