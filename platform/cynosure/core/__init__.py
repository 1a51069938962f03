"""The parts of y = f(x, z), z ~ p(z | x), and the records that travel between them."""
