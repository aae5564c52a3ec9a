"""Calls of reward functions in a thread, an event loop or processes of their own, with a time limit."""
