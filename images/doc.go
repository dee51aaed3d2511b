// Package images keeps OS images as bytes named by their digest, on every node.
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
// and refuses what no machine could boot. Scheduler tells an installing machine
// which chunk to fetch next and from where.
//
// That an image exists, and that it was deleted, the nodes agree on elsewhere;
// Replicator makes the store follow. It copies what is missing, a manifest first
// and then its chunks, from whichever node has them: several at a time, each
// verified before it is kept, within a limit, and never into the space that is
// kept free for the log. What arrived stays, so that a node that is stopped goes
// on where it was. It deletes what the fleet does not want any more, but only
// once the cluster has confirmed it, for the bytes may be the last ones; an
// import is left alone until the fleet knows it.
//
// Three kinds of readers are served. Machines get a chunk that is not here by a
// fetch from another node while they wait, before all copying and without limit,
// so that any node can install any image at once (Replicator.Handler). Other
// nodes get what is here and nothing else, or two that lack the same chunk would
// ask each other for ever (Store.PeerHandler). What is damaged on disk is found
// when it is first served, when a machine or a node complains, or by Verify; it
// then counts as missing and is fetched like anything else that is.
package images
