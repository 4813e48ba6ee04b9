"""From noise to latents: schedules, solvers as tables, and the one loop that runs every table."""
