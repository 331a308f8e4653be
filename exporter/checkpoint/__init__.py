"""A checkpoint on disk or on the hub: its folders, configs, weights, tokenizer and adapters."""
