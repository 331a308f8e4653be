"""Export Wuerstchen checkpoints to bundles of graphs: python -m exporter."""
