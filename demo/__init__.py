"""Rendered goods, the demo encoders' training, and the demo scenario."""
