"""What holds for all tests."""

import os

from hypothesis import settings

# How long an example takes says how busy the machine is; times are measured in bench/, where there is a peer.
# The quick tests try the same examples every time, so that a change is not held up by what it did not do;
# `make test-full` tries new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")
