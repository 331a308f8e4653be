"""Every plot of validation as SVG text: the report's charts and the sweep's trade-off.

Written by hand on purpose. A page must stay one offline file that is readable on white and on
black: marks take their colours from the style sheet's variables, which change with the reader's
theme, tell what they are when hovered, and move their labels out of each other's way. matplotlib's
SVG fixes its colours when it is drawn and turns letters into paths, so that neither the theme nor
a screen reader reaches them, and it would be a dependency of a comparison that needs none.
"""
