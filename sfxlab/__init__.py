"""From detector frames to structure factors."""
