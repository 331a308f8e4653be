"""torchvision, where it is there: imported before transformers looks for it, as it says itself."""

from contextlib import suppress

from validation.torchvision_models import torchvision_models

with suppress(ModuleNotFoundError):
    torchvision_models()
