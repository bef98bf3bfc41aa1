"""How fast random views are made: beside torchvision."""
