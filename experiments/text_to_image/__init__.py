"""Studies of images from text: a chain trained from nothing, its rivals, and published files."""
