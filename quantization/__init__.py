"""Bundles to smaller bundles; reserved for the quantisation recipes."""
