#!/bin/sh
# Builds a bootable disk image, raw and qcow2, for BIOS and UEFI, from Debian and the appliance's package.
# usage: build.sh PACKAGE.deb DIRECTORY [bookworm|trixie]
#
# It takes root, and a kernel with loop devices; everything else comes from Debian. mmdebstrap makes the tree, systemd-repart the
# partitions and file systems, GRUB installs itself. Two builds from the same packages are the same, byte by byte.
set -eu
deb=$(realpath "$1")
output=$(realpath -m "$2")
suite=${3:-bookworm}
here=$(cd "$(dirname "$0")" && pwd)
case "$suite" in bookworm | trixie) ;; *) echo "no such suite: $suite" >&2 && exit 2 ;; esac

# In a view of the mounts of its own: nothing that is mounted here can be left behind, or be taken off the machine that builds.
[ -n "${IMAGE_MOUNTS:-}" ] || exec env IMAGE_MOUNTS=own unshare --mount --propagation private sh "$0" "$@"

# All times in the image, and all its UUIDs, follow from the package.
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$here/../deb/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH
seed=$(printf '%s' "appliance $suite" | sha256sum | sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)\(.\{12\}\).*/\1-\2-\3-\4-\5/')

work=$(mktemp -d)
loop=
clean_up() {
    code=$?
    trap - EXIT
    umount -R "$work/mounted" 2>/dev/null || true
    [ -z "$loop" ] || partx --delete "$loop" 2>/dev/null || true
    [ -z "$loop" ] || losetup --detach "$loop"
    rm -rf --one-file-system "$work"
    exit $code
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$output"

# systemd-repart of Debian 13 makes file systems without mounting them; Debian 12's cannot.
tools=${IMAGE_TOOLS:-$output/tools-trixie}
if [ ! -e "$tools/done" ]; then
    rm -rf --one-file-system "$tools"
    mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
        --include=systemd-repart,mtools,dosfstools,e2fsprogs trixie "$tools"
    mkdir "$tools/work"
    touch "$tools/done"
fi

# The system. A kernel for every machine; both ways to boot, of which updates reach the disk; what Debian's own images for clouds have.
packages=systemd,systemd-sysv,systemd-resolved,systemd-timesyncd,libpam-systemd,dbus,udev,linux-image-amd64,initramfs-tools,zstd
packages=$packages,grub-cloud-amd64,cloud-init,cloud-guest-utils,netplan.io
packages=$packages,openssh-server,sudo,locales,ca-certificates,curl,less,vim-tiny,man-db,bash-completion,fdisk,e2fsprogs,dosfstools
# What the appliance's package depends on, from the package itself: nothing is downloaded when it is installed. Of alternatives the first one
# that the suite has; Debian 12 has no docker-cli.
packages=$packages,apparmor,iptables,$(dpkg-deb --field "$deb" Depends | tr ',' '\n' |
    sed 's/|.*//; s/(.*)//; s/ //g' | { [ "$suite" = bookworm ] && grep -vx docker-cli || cat; } | paste -sd,)
mkdir "$work/files"
cp "$deb" "$work/files/appliance.deb"
cp "$here"/customize "$work/files/customize"
mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/??/*' --dpkgopt='path-exclude=/usr/share/man/??_*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include="$packages" \
    --customize-hook="sync-in $work/files /root" \
    --customize-hook='chroot "$1" sh -eu /root/customize && rm "$1/root/customize" "$1/root/appliance.deb"' \
    "$suite" "$work/tree"

# Partitions and file systems, from the tree as it is now. UEFI reads no FAT whose sectors are not as long as those of its disk.
make_image() {
    rm -f "$work/disk.raw"
    # No time of the build is left.
    find "$work/tree/boot" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    # By what the index of ext4's directories is mixed; random otherwise.
    export SYSTEMD_REPART_MKFS_OPTIONS_EXT4="-E hash_seed=$seed,nodiscard,lazy_itable_init=1"
    unshare --mount sh -eu -c '
        mount --bind "$1" "$2/work"; mount --bind "$3" "$2/mnt"; mount -t proc proc "$2/proc"; mount -t tmpfs tmp "$2/tmp"
        chroot "$2" systemd-repart --offline=yes --sector-size=512 --empty=create --size=auto --dry-run=no --seed="$4" --root=/work/tree \
            --definitions=/mnt /work/disk.raw >/dev/null' sh "$work" "$tools" "$here/repart" "$seed"
}
root_uuid() {
    blkid --probe --offset $((start * 512)) --match-tag UUID --output value "$work/disk.raw"
}
mkdir -p "$work/tree/boot/efi/EFI/BOOT" "$work/tree/boot/efi/EFI/debian" "$work/mounted"
cp "$work/tree/usr/lib/shim/shimx64.efi.signed" "$work/tree/boot/efi/EFI/BOOT/BOOTX64.EFI"
cp "$work/tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$work/tree/boot/efi/EFI/BOOT/grubx64.efi"
make_image
start=$(sfdisk --json "$work/disk.raw" | sed -n 's/.*"start": *\([0-9]*\).*/\1/p' | tail -n 1)
uuid=$(root_uuid)
esp=$(blkid --probe --offset $(($(sfdisk --json "$work/disk.raw" | sed -n 's/.*"start": *\([0-9]*\).*/\1/p' | sed -n 2p) * 512)) \
    --match-tag UUID --output value "$work/disk.raw")

# What follows from the UUIDs goes into the tree, and the image is made again with it. GRUB itself looks at a disk: it is shown the first
# image for that.
printf 'UUID=%s / ext4 rw,errors=remount-ro,x-systemd.growfs 0 1\nUUID=%s /boot/efi vfat umask=0077,nofail 0 1\n' "$uuid" "$esp" \
    >"$work/tree/etc/fstab"
printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$uuid" \
    >"$work/tree/boot/efi/EFI/debian/grub.cfg"
loop=$(losetup --find --show "$work/disk.raw")
partx --add "$loop"
mount "${loop}p3" "$work/mounted"
mount -t proc proc "$work/mounted/proc"
# Without what is mounted in it: whether this machine has UEFI must not show in the menu.
mount --bind /sys "$work/mounted/sys"
# Devices by their UUIDs, as udev would have them: without that GRUB names the loop device.
mount -t tmpfs dev "$work/mounted/dev"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$loop" "${loop}p1" "${loop}p2" "${loop}p3" "$work/mounted/dev/"
mkdir -p "$work/mounted/dev/disk/by-uuid"
ln -s "../../${loop#/dev/}p3" "$work/mounted/dev/disk/by-uuid/$uuid"
cp "$work/tree/etc/fstab" "$work/mounted/etc/fstab"
chroot "$work/mounted" grub-install --target=i386-pc --no-nvram "$loop"
chroot "$work/mounted" update-grub
grep -q "root=UUID=$uuid" "$work/mounted/boot/grub/grub.cfg" || { echo "GRUB does not name the root by its UUID" >&2; exit 1; }
umount -R "$work/mounted/dev" "$work/mounted/proc" "$work/mounted/sys"
cp -a "$work/mounted/boot/grub" "$work/tree/boot/"
umount "$work/mounted"
partx --delete "$loop"
losetup --detach "$loop"
loop=
# GRUB's first sector and its core, which names the root's UUID; both lie in the second image where they lay in the first.
dd if="$work/disk.raw" of="$work/boot" bs=440 count=1 status=none
core=$(sfdisk --json "$work/disk.raw" | sed -n 's/.*"start": *\([0-9]*\).*/\1/p' | head -n 1)
dd if="$work/disk.raw" of="$work/core" bs=512 skip="$core" count=2048 status=none
make_image
[ "$(root_uuid)" = "$uuid" ] || { echo "the second image has another UUID than the first" >&2; exit 1; }
dd if="$work/boot" of="$work/disk.raw" conv=notrunc status=none
dd if="$work/core" of="$work/disk.raw" bs=512 seek="$core" conv=notrunc status=none

name=$output/appliance-$suite
qemu-img convert -c -O qcow2 "$work/disk.raw" "$name.qcow2.new"
mv "$work/disk.raw" "$name.raw"
mv "$name.qcow2.new" "$name.qcow2"
(cd "$output" && sha256sum "appliance-$suite.raw" "appliance-$suite.qcow2" >"appliance-$suite.sha256")
ls -ls "$name.raw" "$name.qcow2"
