"""Rewards from models on this machine: sequence classifiers, click scorers, and the backbones that they share."""
