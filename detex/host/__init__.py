"""The only part of the core that knows ComfyUI; each file wraps one facility of it."""
