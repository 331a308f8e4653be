"""What becomes of outputs when processes are killed, interrupted, or their disks fail (POSIX)."""
