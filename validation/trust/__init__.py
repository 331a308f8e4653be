"""Can a bundle, and what it is made from, be trusted: when it is damaged, or a stranger's."""
