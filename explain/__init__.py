"""Explanations: the votes behind a prediction, the routes of many, and whether explanations hold.

`explain.explain(model, image)` explains one image from Python; see `explain.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explain.api import Explanation, explain

__all__ = ["Explanation", "explain"]


def __getattr__(name: str) -> Any:
    """What `explain.api` has, imported when it is asked for: the records alone need neither torch nor matplotlib."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from explain import api

    return getattr(api, name)
