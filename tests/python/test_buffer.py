"""Registered buffers: what is accepted, what is refused, and how long registered arrays live."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors


def test_a_registered_array_is_source_and_target():
    me, n = shmem.my_pe(), shmem.n_pes()
    inbox = shmem.zeros(1000, "float32")
    mine = np.arange(1000, dtype="float32") + me
    shmem.buffer_register(mine)
    shmem.put(inbox, mine, (me + 1) % n)
    shmem.barrier_all()
    assert (inbox == np.arange(1000) + (me - 1) % n).all()
    shmem.get(mine, inbox, (me + 1) % n)
    assert (mine == np.arange(1000) + me).all()
    shmem.buffer_unregister(mine)
    shmem.barrier_all()
    shmem.free(inbox)


def test_registered_arrays_live():
    mine = np.zeros((50, 20), order="F")
    alive = weakref.ref(mine)
    shmem.buffer_register(mine)
    view = mine[:, 0]
    del mine
    gc.collect()
    assert alive() is not None
    with pytest.raises(errors.ArgumentError, match="overlap"):
        shmem.buffer_register(view)
    shmem.buffer_unregister(view)  # starts at the same byte
    del view
    gc.collect()
    assert alive() is None


def test_what_is_refused():
    mine, symmetric = np.zeros(100), shmem.zeros(100)
    with pytest.raises(errors.ArgumentError, match="0 bytes"):
        shmem.buffer_register(np.zeros(0))
    with pytest.raises(errors.ArgumentError, match="symmetric host heap"):
        shmem.buffer_register(symmetric)
    with pytest.raises(errors.ArgumentError, match="not contiguous"):
        shmem.buffer_register(mine[::2])
    with pytest.raises(TypeError, match="list"):
        shmem.buffer_register([1, 2])
    with pytest.raises(errors.AddressError, match="no registered buffer"):
        shmem.buffer_unregister(mine)
    shmem.buffer_register(mine)
    with pytest.raises(errors.ArgumentError, match="overlap"):
        shmem.buffer_register(mine[50:])
    with pytest.raises(errors.AddressError, match="no registered buffer"):
        shmem.buffer_unregister(mine[1:])
    shmem.buffer_unregister(mine)
    shmem.free(symmetric)


@pytest.mark.npes(1)
def test_finalize_forgets_all(run_pes):
    code = """
import gc, weakref
import numpy as np, pyshmem as shmem
from pyshmem import errors
x = np.ones(1000)
alive = weakref.ref(x)
for _ in range(2):
    shmem.init()
    shmem.buffer_register(x)
    shmem.finalize()
for call in (shmem.buffer_register, shmem.buffer_unregister):
    try:
        call(x)
    except errors.NotInitializedError as error:
        print("told:", error)
del x
gc.collect()
assert alive() is None
"""
    ran = run_pes(2, code)
    assert ran.returncode == 0 and ran.stdout.count("told:") == 4, ran.stdout + ran.stderr
