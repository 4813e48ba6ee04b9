"""The small adapters for the embedded checkpoint: how they are drawn for, trained and measured."""
