"""What a machine has measured about itself: choices, their measurement, its record, and how a model uses it."""
