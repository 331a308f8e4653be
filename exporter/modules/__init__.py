"""The checkpoint's networks in the form that is exported: same function, fewer operations."""
