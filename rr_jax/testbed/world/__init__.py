"""The texts of the testbed: documents of every skill, and what a right answer is."""
