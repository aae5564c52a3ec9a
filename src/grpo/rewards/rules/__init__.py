"""Rewards computed from the text alone: format, answer, length, and the rules behind the generated data."""
