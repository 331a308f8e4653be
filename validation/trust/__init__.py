"""Can a bundle be trusted: is it made alike twice, does it hold under load and over seeds?"""
