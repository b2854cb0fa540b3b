"""Settings for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Shared machines are slow at times; how long an example takes is no property of the code.
settings.register_profile("kops-py", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kops-py")
