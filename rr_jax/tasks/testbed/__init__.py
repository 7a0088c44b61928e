"""The targets of the testbed: entities, toxicity, code."""
