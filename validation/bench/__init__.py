"""Times and errors of graphs on every engine, measured side by side in one run."""
