"""The microVM runtime: an OCI runtime whose sandboxes are QEMU guests."""
