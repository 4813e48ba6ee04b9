"""Jobs from their acceptance to their end: the queue, its journal and its events."""
