"""Rows packed, written and gathered by a device, beside the CPU's."""

import numpy as np
import pytest
import torch

from sac_runtime.errors import GeometryError, GpuError
from sac_runtime.gpu.pack import pack_rows
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import gather_rows, scatter_rows
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows import quantise
from sac_runtime.rows.layout import KvLayout, Quantiser

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORMATS = [KvLayout.bf16(), KvLayout.fp32(), *(KvLayout.fp8(padded=True, quantiser=each) for each in Quantiser)]


@pytest.mark.parametrize("layout", FORMATS, ids=lambda each: f"{each.name}-{each.quantiser}")
def test_rows_are_packed_as_on_the_cpu_bit_for_bit(layout):
    random = np.random.default_rng(2)
    latent = (random.normal(size=(6, 512)) * np.array([1, 1e-6, 300, 1e-3, 0, 30])[:, None]).astype(np.float32)
    latent[0, 3], rope = np.float32(2.0**-9), random.normal(size=(6, 64)).astype(np.float32)
    packed = pack_rows(layout, torch.from_numpy(latent).to(DEVICE), torch.from_numpy(rope).to(DEVICE))
    assert np.array_equal(packed.cpu().numpy(), quantise.pack_rows(layout, latent, rope))


def test_rows_that_a_device_writes_are_what_the_store_and_the_device_read():
    layout = KvLayout.fp8()
    with MappedStore.anonymous(layout, 64, huge_pages=False) as mapped, RegisteredStore(mapped, DEVICE) as store:
        rows = torch.tensor([5, 63, 0, 17])
        values = torch.randint(0, 256, (4, layout.row_bytes), dtype=torch.uint8)
        scatter_rows(store, rows.to(DEVICE), values.to(DEVICE))
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        read = np.empty((4, layout.row_bytes), np.uint8)
        mapped.read_rows(rows.numpy(), read)
        assert np.array_equal(read, values.numpy())
        out = torch.zeros((2, layout.row_bytes), dtype=torch.uint8, device=DEVICE)
        gather_rows(store, rows[:2].to(DEVICE), out)
        assert torch.equal(out.cpu(), values[:2])
        untouched = np.empty((1, layout.row_bytes), np.uint8)
        mapped.read_rows(np.array([6]), untouched)
        assert not untouched.any()


def test_shapes_that_no_kernel_checks_are_refused_before():
    layout = KvLayout.bf16()
    with MappedStore.anonymous(layout, 8, huge_pages=False) as mapped, RegisteredStore(mapped, DEVICE) as store:
        rows, out = (
            torch.tensor([1], device=DEVICE),
            torch.zeros((2, layout.row_bytes), dtype=torch.uint8, device=DEVICE),
        )
        with pytest.raises(GeometryError, match="they must be int64 and uint8"):
            gather_rows(store, rows, out)
        with pytest.raises(GeometryError, match="contiguous"):
            scatter_rows(store, rows, out.repeat(1, 2)[:1, ::2])
    with pytest.raises(GpuError, match="its registration is closed"):
        gather_rows(store, rows, out[:1])
