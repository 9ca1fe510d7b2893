"""For all tests."""

import sys
import warnings

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """Lets hypothesis look at all modules, which it does after the collection.

    Looking at langflow's aliases of lfx imports what they stand for; after ``lfx.io`` alone, lfx then fails in a circle
    of imports that ``lfx.custom`` enters from the right side.
    """
    if "langflow" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lfx.custom  # noqa: F401
            from lfx.services.deps import get_settings_service

            # Langflow's settings are read once for the process: now, not within a test that sets variables for itself.
            get_settings_service()
