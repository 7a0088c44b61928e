"""Many runs from one file: the grid, what is computed together, and the table and figures at its end."""
