"""How good pictures are: against the full loop, against other solvers, and against true pictures."""
