"""What widgets show and do, without any widget."""
