"""A checkpoint as it is found: its folders, configs, weights, tokenizer and adapters."""
