#!/usr/bin/env bash
# Makes a directory tree with a Debian arm64 Python in it, and has this system run its programs under user-mode emulation.
# For tests/artifact/test_aarch64.py; needs root, Debian's archive, and the packages qemu-user-static and debootstrap.
#   tests/support/make_aarch64_tree.sh TREE [SUITE]
set -euo pipefail
tree=${1:?usage: make_aarch64_tree.sh TREE [SUITE]} suite=${2:-bookworm}

debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 "$suite" "$tree"
for package in "$tree"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$tree"; done
mkdir -p "$tree/proc" "$tree/tmp"
mountpoint -q "$tree/proc" || mount -t proc proc "$tree/proc"

# The flag F: the emulator is opened now, so that it need not lie in the tree (binfmt_misc, kernel documentation).
register=/proc/sys/fs/binfmt_misc
[ -e "$register/register" ] || mount -t binfmt_misc none "$register"
[ -e "$register/qemu-aarch64" ] || printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' >"$register/register"
chroot "$tree" /usr/bin/python3 -c 'import platform; print(platform.machine(), platform.python_version())'
