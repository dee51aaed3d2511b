package main

// drivers are the modules of the agent's kernel, as patterns of names; what
// they need comes along. The agent loads those the machine's devices ask for. These
// are for machines of any architecture.
var drivers = []string{
	// Virtual machines.
	"virtio", "virtio_ring", "virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_console", "virtio_rng",
	"vmxnet3", "hv_vmbus", "hv_netvsc", "hv_storvsc", "xen_netfront", "xen_blkfront",

	// Network cards.
	"e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
	"tg3", "bnxt_en", "bnx2", "bnx2x", "be2net", "ena", "enic", "sfc", "qede", "cxgb4", "atlantic", "alx", "atl1c", "sky2",
	"mlx4_core", "mlx4_en", "mlx5_core",
	"r8169", "realtek", "8139too", "8139cp", "pcnet32", "ne2k_pci",
	// Parts of a board's network port that are found by what the port says, not
	// by a modalias of their own.
	"broadcom", "marvell", "smsc",

	// Disks.
	"nvme", "ahci", "ata_piix", "ata_generic", "sata_sil24", "sata_nv", "sata_via", "sata_mv",
	"sd_mod", "sg", "megaraid_sas", "mpt3sas", "mpi3mr", "mptspi", "mptsas", "smartpqi", "hpsa", "aacraid", "mvsas", "pm80xx", "lpfc", "qla2xxx",
	"sdhci_pci", "mmc_block",

	// USB: disks, keyboards for the console, network sticks.
	"xhci_pci", "ehci_pci", "ohci_pci", "usb_storage", "uas", "usbhid", "hid_generic", "cdc_ether", "ax88179_178a", "r8152", "asix",
	"atkbd",

	// The machine itself: controller, TPM, firmware variables, seed partitions.
	"ipmi_si", "ipmi_ssif", "ipmi_devintf", "tpm_crb", "efivarfs",
	"vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8",
	"nvme_fabrics", "watchdog",
}

// driversAMD64 are those that only x86 machines need.
var driversAMD64 = []string{"vmw_pvscsi", "forcedeth", "arcmsr", "isci", "uhci_hcd", "i8042", "tpm_tis", "i2c_i801", "i2c_piix4", "iTCO_wdt"}

// driversARM64 are those of arm64 boards: network ports and disks that are parts of
// the processor's chip, and what is between these and the bus.
var driversARM64 = []string{
	"hns3", "hclge", "hns_dsaf", "hns_enet_drv", "hisi_sas_v3_hw", "hisi_sas_v2_hw", // Huawei Kunpeng
	"xgene_enet", "xgene_enet_v2", "ahci_xgene", // Ampere, Applied Micro
	"nicvf", "nicpf", "thunder_bgx", "thunder_xcv", // Cavium, Marvell
	"mvneta", "mvpp2", "ahci_mvebu", "sdhci_xenon_driver",
	"fsl_dpaa2_eth", "fsl_enetc", "sdhci_of_esdhc", "ahci_qoriq", // NXP
	"genet", "sdhci_iproc", "pcie_brcmstb", "reset_raspberrypi", // Raspberry Pi 4
	"dwmac_rk", "dwmac_sun8i", "dw_mmc_rockchip", "sdhci_of_arasan", "sdhci_acpi", "amd_xgbe", "macb", "netsec", "ahci_platform",
	"sbsa_gwdt",
}
