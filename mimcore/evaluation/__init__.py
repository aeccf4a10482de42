"""What a run is worth: one module a task."""
