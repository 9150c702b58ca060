"""didact: build instruction data, tune a language model on it, and show what the tuning taught."""

__version__ = "0.1.0"
