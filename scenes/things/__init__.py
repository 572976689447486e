"""Things that scenes show: each function draws one on a canvas, at a place, in a size."""
