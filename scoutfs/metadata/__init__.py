"""The trees of the metadata device: every block is verified before a byte of it is used."""
