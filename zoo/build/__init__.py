"""What makes models: the only place in the core that imports torch (extra `build`)."""
