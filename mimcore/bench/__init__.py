"""How fast a user's own pool comes to a training step, and what would make it faster."""
