# Runs in mmdebstrap's hook, beside the unpacked packages in "$1"; leaves /parts for mmdebstrap to hand out: QEMU with the loader,
# libraries, modules and firmware that it was built with, and a script that starts it with these alone.
# shellcheck shell=sh
set -eu
root=$1
parts=$root/parts
libraries=$root/usr/lib/x86_64-linux-gnu
loader=$libraries/ld-linux-x86-64.so.2

echo 'I: packing the emulator...'
mkdir "$parts" "$parts/bin" "$parts/lib" "$parts/modules" "$parts/firmware"
# The loader bears the program's name, since it is what `ps` shows.
cp -L "$loader" "$parts/bin/qemu-system-x86_64"
cp "$root/usr/bin/qemu-system-x86_64" "$parts/lib/qemu"
cp "$libraries"/qemu/*.so "$parts/modules"
for program in "$parts/lib/qemu" "$parts"/modules/*.so; do
	"$loader" --library-path "$libraries" --list "$program"
done | sed -n 's/.*=> \([^ ]*\) .*/\1/p' | sort -u | while read -r library; do
	case $library in
	"$libraries"/*) cp -L "$library" "$parts/lib/" ;;
	*) echo "E: $library is not of the unpacked packages" >&2 && exit 1 ;;
	esac
done
cp -L "$root"/usr/share/seabios/*.bin "$parts/firmware"
for file in bios-256k.bin kvmvapic.bin linuxboot_dma.bin pvh.bin efi-virtio.rom; do
	[ -e "$parts/firmware/$file" ] || cp -L "$root/usr/share/qemu/$file" "$parts/firmware"
done
cp -rL "$root/usr/share/qemu/keymaps" "$parts/firmware"
(cd "$root/var/cache/apt/archives" && ls ./*.deb) | sed 's,^\./,,; s/%3a/:/' >"$parts/packages"

# QEMU_MODULE_DIR: without it QEMU would load the machine's modules.
cat >"$parts/qemu-system-x86_64" <<'END'
#!/bin/sh
here=${0%/*}
QEMU_MODULE_DIR=$here/modules
export QEMU_MODULE_DIR
unset LD_LIBRARY_PATH LD_PRELOAD
exec "$here/bin/qemu-system-x86_64" --inhibit-cache --library-path "$here/lib" "$here/lib/qemu" -L "$here/firmware" "$@"
END
chmod 755 "$parts/qemu-system-x86_64"
