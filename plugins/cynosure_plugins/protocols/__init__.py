"""Published evaluation protocols, one plugin a file."""
