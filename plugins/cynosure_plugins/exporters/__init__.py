"""Writers of models in the formats of other programs, for `cynosure export`."""
