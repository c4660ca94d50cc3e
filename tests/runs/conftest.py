"""What the tests that train many small runs share."""

import os

import jax
import pytest

from normres.runs import local, machine


@pytest.fixture(scope="module")
def quickly():
    """On one device, with data that are read once, and without waiting for the disk."""
    one, datasets = jax.devices()[:1], {}

    def load_data(config, load=local.load_data):
        if (key := str(config.data)) not in datasets:
            datasets[key] = load(config)
        return datasets[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "return_freed_memory", lambda: None)
        patch.setattr(jax, "devices", lambda: one)
        patch.setattr(local, "load_data", load_data)
        patch.setattr(os, "fsync", lambda descriptor: None)  # test_checkpoint.py sees to it
        yield
