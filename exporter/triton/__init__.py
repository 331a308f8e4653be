"""A model repository for Triton: one Python-backend model that runs a bundle."""
