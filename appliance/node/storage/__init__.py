"""The storage pool's volumes."""
