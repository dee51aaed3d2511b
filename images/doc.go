// Package images keeps OS images as bytes named by their digest.
//
// An image is a manifest: a list of 4 MiB pieces of raw disk, each named by the
// SHA-256 of its raw bytes. A chunk lies on disk, and travels, as one gzip
// member; a chunk of zeros has the empty name and no bytes anywhere. The same
// chunks serve installing, resuming, checking and copying between nodes, and
// plain HTTP is good enough to carry them, because whoever receives one checks
// it against its name.
//
// Store keeps chunks and manifests in a directory and survives a crash at any
// moment. Importer code turns a raw disk image, perhaps compressed, into chunks
// and refuses what no machine could boot. Handler serves the bytes; Scheduler
// tells an installing machine which chunk to fetch next and from where.
package images
