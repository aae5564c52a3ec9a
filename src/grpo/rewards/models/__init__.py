"""Rewards that are models of this machine: sequence classifiers and click scorers, and what they read with."""
