"""Observations of many crystals into one set of structure factors."""
