"""Nodes that SLURM's power saving starts when jobs wait for them, and gives back when they are idle."""
