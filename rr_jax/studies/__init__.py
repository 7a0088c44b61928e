"""What is asked of finished runs, and of many: attacks, surfaces, sweeps."""
