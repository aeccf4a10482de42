"""What the grid of runs says: tables, laws, diagnostics and the report. Nothing here imports torch."""
