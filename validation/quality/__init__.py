"""How good a bundle's pictures are: made once, kept, and scored with intervals."""
