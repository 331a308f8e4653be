"""Quality and time over guidance and steps: the paper's Appendices I and J for a bundle."""
