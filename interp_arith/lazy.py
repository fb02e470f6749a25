"""Modules that are imported when something is first asked of them: those that take seconds, and few need."""

import importlib
from types import ModuleType
from typing import Any


class Lazy(ModuleType):
    """Stands for a module, which is imported at the first attribute that is asked of it.

    Args:
        name: dotted.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)
