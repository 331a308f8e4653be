"""The demo data set: drawn scenes, their captions, and the judge that scores pictures of them."""
