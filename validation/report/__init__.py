"""Bundles of one model side by side: what each costs, how far it is off, which one to ship."""
