// Package trust is keys and nothing else: the authority of a cluster, the
// certificates by which nodes know each other, the secret that all nodes share,
// the tokens by which a new one is let in, and where all of it lies on disk. It
// opens no connection and knows no log.
//
// A node is its key: a new node's id is made from its public key, so nobody can
// ask for a certificate of a node whose key they do not hold, not even with the
// token it joined with.
//
// The randomness of keys is not passed in: the standard library takes it from
// the system alone, and a caller who could give another source could give a bad one.
package trust
