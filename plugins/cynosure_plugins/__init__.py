"""The parts that come with Cynosure: quantizers, tokenizers, bases, encoders, priors, datasets, metrics, importers."""
