"""What functional transforms show of forgetting: surfaces of the loss over the strengths of the adapters."""
