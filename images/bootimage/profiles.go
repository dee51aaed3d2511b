package bootimage

// Names of the files of the profiles that every node has: a machine may be booted
// into these once, in place of the agent.
const (
	Rescue      = "rescue"      // an initramfs that is laid over the agent's, with a shell
	MemtestBIOS = "memtest.bin" // Memtest86+, as a kernel for BIOS
	MemtestUEFI = "memtest.efi" // the same as a program for UEFI
)

// profileNames are the names above.
func profileNames() []string { return []string{Rescue, MemtestBIOS, MemtestUEFI} }
