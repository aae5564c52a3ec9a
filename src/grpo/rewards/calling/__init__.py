"""How reward functions are called: in a thread, an event loop or processes of their own, with a limit of time."""
