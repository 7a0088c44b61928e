"""A run from configuration to results: its folder, checkpoints, stages and the loop that resumes them."""
