"""How it is minimised: the loop, its schedule, its checkpoints."""
