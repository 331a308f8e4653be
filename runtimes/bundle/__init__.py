"""A bundle on disk: its manifest, reading and verifying it, writing it all or nothing."""
