# Runs in mmdebstrap's hook, beside the guest's root "$1", as root or as root of a user namespace; leaves /parts for mmdebstrap to hand out.
# shellcheck shell=sh
set -eu
root=$1
kernel=$(basename "$root"/boot/vmlinuz-*)
copy=$root.copy
disk=$root.disk
trap 'rm -rf "$copy" "$disk"' EXIT

echo 'I: packing the kernel and the disk...'

# A key that every guest shares would prove nothing: each bed brings its own.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/machine-id

# The kernel as an ELF file boots by PVH, which saves the guest the unpacking. Offsets: Linux, Documentation/arch/x86/boot.rst.
bzimage=$root/boot/$kernel
setup_sectors=$(od -An -tu1 -j 497 -N 1 "$bzimage")
payload_offset=$(od -An -tu4 -j 584 -N 4 "$bzimage")
payload_bytes=$(od -An -tu4 -j 588 -N 4 "$bzimage")
tail -c +$(((setup_sectors + 1) * 512 + payload_offset + 1)) "$bzimage" | head -c $((payload_bytes - 4)) |
	chroot "$root" zstd -qdc >"$root.vmlinux"
mkdir "$root/parts"
mv "$root.vmlinux" "$root/parts/vmlinux"
cp -r "$root/usr/lib/modules/${kernel#vmlinuz-}" "$root/parts/modules"

# mmdebstrap has /proc, /sys and /dev mounted in the root while a hook runs; a copy of the one file system has none of them.
# Device nodes are left out, since a user namespace cannot make them; the guest's kernel fills /dev by itself.
mkdir "$copy"
tar -C "$root" --one-file-system --exclude='./dev/*' --exclude=./parts --exclude=./boot \
	--exclude='./var/lib/apt/lists/*' --exclude='./var/cache/apt/*' -cf - . | tar -C "$copy" -xf -
files_kib=$(du -sk "$copy" | cut -f1)
inodes=$(find "$copy" | wc -l) # 256 bytes each
mkfs.ext4 -q -F -b 4096 -m 0 -N $((inodes + 1000)) -O ^has_journal,^resize_inode -d "$copy" "$disk" $((files_kib + inodes / 4 + 16384))k
mv "$disk" "$root/parts/disk.ext4"
