"""Stacks that zoo ships models to."""
