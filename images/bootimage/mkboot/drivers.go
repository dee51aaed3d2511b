package main

// drivers are the modules of the agent's kernel, as patterns of names; what
// they need comes along. The agent loads those the machine's devices ask for.
var drivers = []string{
	// Virtual machines.
	"virtio", "virtio_ring", "virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_console", "virtio_rng",
	"vmxnet3", "vmw_pvscsi", "hv_vmbus", "hv_netvsc", "hv_storvsc", "xen_netfront", "xen_blkfront",

	// Network cards.
	"e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
	"tg3", "bnxt_en", "bnx2", "bnx2x", "be2net", "ena", "enic", "sfc", "qede", "cxgb4", "atlantic", "alx", "atl1c", "sky2", "forcedeth",
	"mlx4_core", "mlx4_en", "mlx5_core",
	"r8169", "realtek", "8139too", "8139cp", "pcnet32", "ne2k_pci",
	// Parts of a board's network port that are found by what the port says, not
	// by a modalias of their own.
	"broadcom", "marvell", "smsc",

	// Disks.
	"nvme", "ahci", "ata_piix", "ata_generic", "sata_sil24", "sata_nv", "sata_via", "sata_mv",
	"sd_mod", "sg", "megaraid_sas", "mpt3sas", "mpi3mr", "mptspi", "mptsas", "smartpqi", "hpsa", "aacraid", "arcmsr", "isci", "mvsas", "pm80xx", "lpfc", "qla2xxx",
	"sdhci_pci", "mmc_block",

	// USB: disks, keyboards for the console, network sticks.
	"xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usb_storage", "uas", "usbhid", "hid_generic", "cdc_ether", "ax88179_178a", "r8152", "asix",
	"atkbd", "i8042",

	// The machine itself: controller, TPM, firmware variables, seed partitions.
	"ipmi_si", "ipmi_ssif", "ipmi_devintf", "tpm_tis", "tpm_crb", "efivarfs",
	"vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8",
	"i2c_i801", "i2c_piix4", "nvme_fabrics", "watchdog", "iTCO_wdt",
}
