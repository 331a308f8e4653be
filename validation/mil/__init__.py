"""An interpreter of Core ML programs, for machines without Core ML: its results are no device's."""
