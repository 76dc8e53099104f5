"""Files on this disk: downloads, archives, model files, and writing a file whole or not at all."""
