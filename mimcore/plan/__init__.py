"""What a study would cost: stages, images, operations, storage, hours and money. No stage imports it."""
