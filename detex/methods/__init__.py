"""Training methods. Each is a `trainer.Method`."""
