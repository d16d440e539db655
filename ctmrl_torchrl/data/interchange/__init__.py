"""Data exchange: importers by name, and Minari import and export."""

from ctmrl_torchrl.data.interchange.minari_export import to_minari
from ctmrl_torchrl.data.interchange.minari_import import from_minari
from ctmrl_torchrl.data.interchange.registry import IMPORTERS, import_dataset
from ctmrl_torchrl.data.interchange.released import import_released
from ctmrl_torchrl.data.interchange.unicorn import import_unicorn

__all__ = [
    "IMPORTERS",
    "from_minari",
    "import_dataset",
    "import_released",
    "import_unicorn",
    "to_minari",
]
