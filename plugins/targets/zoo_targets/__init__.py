"""Targets: other stacks that zoo exports models to."""
