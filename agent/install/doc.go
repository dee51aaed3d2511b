// Package install writes an approved operating system image to the one disk a
// person agreed to erase, and makes it start from there.
//
// [Run] does it in the four stages of package wire. Up to the first destructive
// byte everything is only checked: that the grant is what was approved, that
// exactly one disk of the machine has the approved identity and still holds
// what the person was shown, that the image fits and is a disk image. Then old
// signatures are wiped, chunks fetched, verified and written, the written bytes
// read back from the medium, and the first-boot seed and the partition table
// put in place.
//
// The image's first chunk, which carries the boot sector and the partition
// table, stays in memory until all else is on the disk, and its first sector is
// written last. A disk whose install was cut is therefore never taken for a
// bootable one. A journal near the disk's end lets the same grant go on where
// it stopped, and keeps a used grant from being used again.
//
// The package runs no code out of the image, starts no programs and needs
// nothing but the standard library.
package install
