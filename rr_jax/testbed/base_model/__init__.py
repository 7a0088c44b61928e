"""The model of the testbed: tokenizer, training, and the thresholds it must reach."""
