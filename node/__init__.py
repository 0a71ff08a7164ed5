"""One process of a Tidelock cluster."""
