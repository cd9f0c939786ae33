"""Your own data sets in Python, which `data.factory` returns."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(required_keys=("factory",))


def open_images(request: OpenRequest) -> Opened:
    """Return the images of the data sets that the user's own code returns."""
    from edcompress.core.errors import DataError
    from edcompress.core.user_code import find_callable, importable_working_directory, require_no_arguments, users_code
    from edcompress.data.own_sets import open_objects, parts_of

    key, spec = "data.factory", str(request.data.factory)
    factory = find_callable(key, spec, DataError, trust_code=request.trust_code)
    require_no_arguments(key, spec, factory, DataError)
    with importable_working_directory(), users_code(f"{key}: {spec}() failed in your code", DataError):
        returned = factory()
    given = parts_of(returned, f"{key}: {spec}()")
    return open_objects(given, request.data, request.classes, any_labels=request.any_labels)
