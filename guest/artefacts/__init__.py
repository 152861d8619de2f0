"""What is built once from Debian's packages and kept: a cache of folders by their recipes' hashes, and mmdebstrap."""
