"""The renderer of mini_places: synthetic scenes with pixel-accurate labels. README.md shows the way through it."""
