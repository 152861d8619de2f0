"""Opening stores by name, and what a guest of QEMU changes."""

import pytest

from guest.agent import stores
from guest.agent.stores import inside_qemu, is_mmio, open_store
from sac_runtime.errors import StoreError
from sac_runtime.memory import mapped
from sac_runtime.memory.mapping import HUGE_PAGE_BYTES
from sac_runtime.memory.spec import StoreSpec
from sac_runtime.native import Copy, best_copy
from sac_runtime.rows.layout import KvLayout

LAYOUT = KvLayout.bf16()


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "VENDOR_FILE", tmp_path / "sys_vendor")
    return tmp_path / "sys_vendor"


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A file in place of a device-DAX node, which this machine need not have."""
    monkeypatch.setattr(mapped, "dax_size_bytes", lambda name: HUGE_PAGE_BYTES)
    (tmp_path / "dax0.0").write_bytes(bytes(HUGE_PAGE_BYTES))
    return StoreSpec.dax(str(tmp_path / "dax0.0"))


def test_a_machine_is_a_guest_of_qemu_if_its_dmi_says_so(vendor):
    assert not inside_qemu(), "no DMI"
    vendor.write_text("Dell Inc.\n")
    assert not inside_qemu()
    vendor.write_text("QEMU\n")
    assert inside_qemu()


def test_a_device_of_which_nothing_is_known_is_copied_narrowly_in_a_guest_of_qemu_alone(vendor, device):
    for name, copy in (("Dell Inc.", best_copy()), ("QEMU", Copy.NARROW)):
        vendor.write_text(f"{name}\n")
        with open_store(device, LAYOUT, 10) as store:
            assert store.copy is copy
    with open_store(device, LAYOUT, 10, copy=Copy.BASELINE) as store:
        assert store.copy is Copy.BASELINE, "who asks for a copy gets it"


REGION = "ACPI0017:00/root0/decoder0.0/region0"


@pytest.mark.parametrize(
    ("machine", "ways", "mmio"),
    [
        ("pc-q35-11.1", "1", False),
        ("pc-q35-12.0", "1", False),
        ("pc-q35-11.1", "2", True),
        ("pc-q35-11.0", "1", True),
        ("pc-q35-9.2", "1", True),
        ("Standard PC", "1", True),
        ("", "1", True),
        ("pc-q35-11.1", None, True),
    ],
)
def test_a_region_is_mapped_directly_from_qemu_11_1_on_unless_it_is_interleaved(
    vendor, tmp_path, monkeypatch, machine, ways, mmio
):
    vendor.write_text("QEMU\n")
    (tmp_path / "product_version").write_text(f"{machine}\n")
    device = tmp_path / REGION / "dax_region0" / "dax1.0"
    device.mkdir(parents=True)
    (tmp_path / "dax").mkdir()
    (tmp_path / "dax" / "dax1.0").symlink_to(device)
    if ways:
        (tmp_path / REGION / "interleave_ways").write_text(f"{ways}\n")
    monkeypatch.setattr(stores, "MACHINE_FILE", tmp_path / "product_version")
    monkeypatch.setattr(stores, "DAX_DEVICES", tmp_path / "dax")
    assert is_mmio("/dev/dax1.0") is mmio
    vendor.write_text("Dell Inc.\n")
    assert not is_mmio("/dev/dax1.0")


def test_other_memory_of_a_guest_is_copied_as_anywhere(vendor, tmp_path):
    vendor.write_text("QEMU\n")
    for name in ("anonymous", f"shared:{tmp_path / 'pool'}", "numa:0"):
        with open_store(StoreSpec.parse(name), LAYOUT, 10) as store:
            assert (store.copy, store.num_rows) == (best_copy(), 10)


def test_a_device_too_small_for_its_rows_is_refused(vendor, device):
    with open_store(device, LAYOUT, HUGE_PAGE_BYTES // 1152) as store:
        assert store.size_bytes == HUGE_PAGE_BYTES
    with pytest.raises(StoreError, match="needs more than the device"):
        open_store(device, LAYOUT, HUGE_PAGE_BYTES // 1152 + 1)
