"""Rewards read off the text: its format, answer and length, and what this package's own data says of it."""
