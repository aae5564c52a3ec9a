"""Unit tests of programs: reading tests, running them in the sandbox, and comparing the results outside."""
