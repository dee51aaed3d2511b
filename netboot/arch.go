package netboot

// Names of the files for arm64. Debian has no iPXE for it: firmware is given GRUB.
const (
	LoaderShimARM64 = "shimaa64.efi"
	LoaderGRUBARM64 = "grubaa64.efi"
	FileKernelARM64 = "vmlinuz-arm64"
	FileInitrdARM64 = "initrd-arm64"
)

// agentFiles is what a machine starts the agent with.
type agentFiles struct {
	kernel, initrd string
	// consoles are words for the kernel. The last one that there is becomes
	// /dev/console; those that there are not cost nothing.
	consoles string
	shim     string // for firmware with Secure Boot, and what it starts next
	grub     string
}

// agentFor is what machines of a processor (GOARCH) are given; ok is false where no
// agent is made for it. One that has not said is an x86 machine.
func agentFor(cpu string) (files agentFiles, ok bool) {
	switch cpu {
	case "", "amd64":
		return agentFiles{FileKernel, FileInitrd, "console=tty0 console=ttyS0,115200", LoaderShim, LoaderGRUB}, true
	case "arm64":
		return agentFiles{FileKernelARM64, FileInitrdARM64, "console=tty0 console=ttyS0,115200 console=ttyAMA0,115200", LoaderShimARM64, LoaderGRUBARM64}, true
	}
	return agentFiles{}, false
}

// cpuOf reads what iPXE (${buildarch}) and GRUB (${grub_cpu}) say they were built for,
// as GOARCH has it. iPXE for a BIOS says i386 on machines of 64 bits as well.
func cpuOf(built string) string {
	switch built {
	case "arm64", "riscv64", "loong64":
		return built
	case "arm", "arm32":
		return "arm"
	case "loongarch64":
		return "loong64"
	}
	return "amd64"
}

// isKernel and isInitrd say whether a file is one of the agent's, of any architecture.
func isKernel(file string) bool { return file == FileKernel || file == FileKernelARM64 }
func isInitrd(file string) bool { return file == FileInitrd || file == FileInitrdARM64 }

// isGRUB says whether a file is GRUB, or shim, which starts GRUB.
func isGRUB(file string) bool { return file == LoaderGRUB || file == LoaderGRUBARM64 || isShim(file) }

// isShim says whether a file is the signed loader.
func isShim(file string) bool { return file == LoaderShim || file == LoaderShimARM64 }
