"""The product: does every graph and every step of a bundle equal the reference?"""
