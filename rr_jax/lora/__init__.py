"""Low-rank adapters: pytrees of factors, exact arithmetic on them, and how far two of them overlap."""
