"""Small learned parts in a frozen encoder."""
