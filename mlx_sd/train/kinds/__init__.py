"""What can be trained: each kind has the parameters that it learns, its loss, and the file that it writes."""
