"""This machine: CPUs and quotas, NVIDIA libraries, telemetry switches."""
