"""A training loop that knows adapters, packed rows and constraints, and no method, task or file."""
