"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says how busy the machine is; times are measured in bench/, where there is a peer.
settings.register_profile("gnomon", deadline=None)
settings.load_profile("gnomon")
