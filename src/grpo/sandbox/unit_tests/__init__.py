"""Unit tests of programs: how they are read, what of them goes into the sandbox, and what came out."""
