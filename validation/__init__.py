"""Prove by measurement that a bundle does what its checkpoint does: python -m validation."""
