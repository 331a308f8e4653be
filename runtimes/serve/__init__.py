"""python -m runtimes serve: bundles behind the OpenAI images interface, on one machine."""
