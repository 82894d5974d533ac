"""Candidate lattices from peaks."""
