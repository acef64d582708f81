"""OCI images: made on the host from distribution packages, imported from archives or pulled, without a registry."""
