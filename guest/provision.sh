# Runs in the guest, over SSH: functions first; the calls that guest/provision.py makes from the promised picture follow.
# shellcheck shell=sh disable=SC2034
set -u
devices=/sys/bus/cxl/devices

fail() {
	echo "$*" >&2
	exit 1
}

# memN numbers follow the order of probing, not the command line: only the serial says which device one is.
memdev_of() {
	for memdev in "$devices"/mem[0-9]*; do
		[ -e "$memdev/driver" ] && read -r shown <"$memdev/serial" && [ "$shown" = "$1" ] && memdev=${memdev##*/} && return
	done
	return 1
}

# Returns 1 if one of them has not been probed after 30 s: what is there instead is for the comparison to say.
wait_for_serials() {
	waited=0
	for serial; do
		until memdev_of "$serial"; do
			[ "$waited" -lt 300 ] || return 1
			waited=$((waited + 1))
			sleep 0.1
		done
	done
}

# No udev runs here, so nothing else loads what makes namespaces of persistent regions.
load_pmem() {
	modprobe -a cxl_pmem nd_pmem dax_pmem || fail 'modprobe cxl_pmem nd_pmem dax_pmem failed'
}

# make_region NAME DECODER GRANULARITY SIZE MODE SERIAL...; the serials' order is their order in the interleave.
make_region() {
	name=$1 decoder=$2 granularity=$3 size=$4 mode=$5
	shift 5
	memdevs=
	for serial; do
		memdev_of "$serial" || fail "region '$name': no memory device with serial $serial"
		memdevs="$memdevs $memdev"
	done
	type=ram
	[ "$mode" = pmem ] && type=pmem
	read -r region <"$devices/$decoder/create_${type}_region" || fail "region '$name': no root decoder $decoder"
	# shellcheck disable=SC2086
	cxl create-region -m -t $type -d "$decoder" -w $# -g "$granularity" -s "$size" $memdevs >/dev/null ||
		fail "region '$name': cxl create-region -m -t $type -d $decoder -w $# -g $granularity -s $size$memdevs failed"
	if [ "$mode" = pmem ]; then # the kernel gives the nvdimm region the number of the CXL region
		ndctl create-namespace -r "$region" -m devdax -M mem >/dev/null ||
			fail "region '$name': ndctl create-namespace -r $region -m devdax -M mem failed"
		return
	fi
	dax=$(echo "$devices/$region"/dax_region*/dax[0-9]*.*)
	daxctl reconfigure-device -f -m "$mode" "${dax##*/}" >/dev/null ||
		fail "region '$name': daxctl reconfigure-device -m $mode ${dax##*/} failed"
}

remove_region() {
	for namespace in "$devices/$1"/pmem_region*/; do
		[ -d "$namespace" ] && ndctl destroy-namespace -f -r "$1" all >/dev/null
	done
	cxl disable-region -f "$1" >/dev/null || fail "region $1: cxl disable-region failed"
	cxl destroy-region -f "$1" >/dev/null || fail "region $1: cxl destroy-region failed"
}

remove_memdev() {
	memdev_of "$1" || fail "no memory device with serial $1"
	cxl disable-memdev -f "$memdev" >/dev/null || fail "$memdev: cxl disable-memdev failed"
}

# Everything that guest/inventory.py parses, in sections. No -vvv: it reads the media errors of each device, 2.6 s apiece under emulation.
show() {
	echo '== cxl'
	cxl list -BMPDERTXi || fail 'cxl list failed'
	echo '== daxctl'
	daxctl list -D || fail 'daxctl list failed'
	echo '== numa'
	cd /sys/devices/system || fail 'no /sys'
	grep -s . memory/block_size_bytes node/node*/cpulist node/node*/distance node/node*/access0/initiators/*_*
	ls -d node/node*/memory[0-9]*
}
