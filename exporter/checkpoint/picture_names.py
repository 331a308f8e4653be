"""How the picture side's files are named: as in Stable Cascade's public repository."""

COMPRESSOR_FILE, PREVIEW_FILE = "effnet_encoder.safetensors", "previewer.safetensors"
PICTURE_FILES = (COMPRESSOR_FILE, PREVIEW_FILE)
