"""Imported for its effect, before what imports transformers: validation/torchvision_models.py."""

from validation.torchvision_models import let_torchvision_import

let_torchvision_import()
