"""A page that shows a subset to a person, beside the pool that it was drawn from."""
